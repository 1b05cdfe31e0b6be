import pytest

from morel_jax.reproduction.grid import Grid, scale
from morel_jax.reproduction.trials import Reproduction


@pytest.fixture
def reproduction(tmp_path):
    return Reproduction(Grid(scale("smoke")), tmp_path, range(1, 9), (2, 3, 4))


@pytest.fixture
def trial(reproduction):
    return reproduction.trials(reproduction.families[0])[0]
