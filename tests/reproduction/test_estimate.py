import pytest

from morel_jax.reproduction.estimate import estimate, paired_difference


def test_by_hand():
    found = estimate([50.0, 51.0, 52.0])
    assert found.mean == 51.0
    assert found.half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)  # t of 2 degrees of freedom, deviation 1.
    assert found.count == 3
    assert found.beyond_chance


def test_one_number_has_no_interval():
    found = estimate([50.0])
    assert (found.mean, found.half, found.count) == (50.0, None, 1)
    assert not found.beyond_chance


def test_none():
    assert estimate([]) is None
    assert paired_difference({0: 1.0}, {1: 2.0}) is None


def test_differences_are_within_seeds():
    found = paired_difference({0: 10.0, 1: 20.0, 2: 30.0}, {0: 9.0, 1: 19.1, 2: 28.9, 3: 0.0})
    assert found.mean == pytest.approx(1.0)
    assert found.count == 3
    assert found.half < 0.3  # Though the numbers themselves differ by 20.
