import pytest

from tests.reproduction.made import whole


@pytest.fixture
def reproduction(tmp_path):
    return whole(tmp_path)


@pytest.fixture
def trial(reproduction):
    return reproduction.trials(reproduction.families[0])[0]
