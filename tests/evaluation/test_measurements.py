import numpy as np
import pytest

from morel_jax.evaluation.measurements import radii


@pytest.mark.parametrize(("epsilon", "largest", "expected"), [
    (0.1, 1.0, [0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.4, 0.8, 1.0]),
    (1.0, 1.0, [0.25, 0.5, 0.75, 1.0]),
    (8.0, 8.0, [2.0, 4.0, 6.0, 8.0])])
def test_radii(epsilon, largest, expected):
    np.testing.assert_allclose(radii(epsilon, largest), expected)
