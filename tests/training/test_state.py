import pytest

from morel_jax.training.state import HParams


def test_an_unknown_number_is_named_beside_those_that_there_are():
    with pytest.raises(AttributeError, match=r"HParams has no number 'gamma'; it has beta, momentum\."):
        _ = HParams(None, beta=1.0, momentum=0.9).gamma
