import numpy as np

from morel_jax.attacks.linf import project


def test_project_by_hand():
    x = np.float32([0.5, 0.5, 0.05, 0.95])
    x_adv = np.float32([0.9, 0.45, -1.0, 2.0])
    np.testing.assert_allclose(project(x_adv, x, 0.1), [0.6, 0.45, 0.0, 1.0], rtol=1e-6)
