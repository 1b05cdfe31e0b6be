import numpy as np
import pytest
from scipy import stats

from benchmarks.study import results
from benchmarks.study.design import CHOSEN, GROUPS, LONG, SCREENING_SEED, screened
from benchmarks.study.statistics import difference


def test_by_hand():
    # Differences in points: [[100, 0, 0], [100, 100, -100]]; means of seeds 100/3, of images 100, 50, -50.
    one = np.array([[1, 0, 0], [1, 1, 0]], bool)
    other = np.array([[0, 0, 0], [0, 0, 1]], bool)
    found = difference(one, other)
    assert found.mean == pytest.approx(100 / 3)
    np.testing.assert_allclose(found.by_seed, [100 / 3, 100 / 3])
    assert found.half_same_images == pytest.approx(0, abs=1e-9)
    # Mean squares: seeds 0, counted as the residual's; images 2 (66.7^2 + 16.7^2 + 83.3^2) / 2; the residual's is
    # 2 (50^2 + 50^2) / 2.
    images, rest = 2 * (200 ** 2 / 9 + 50 ** 2 / 9 + 250 ** 2 / 9) / 2, 5000.0
    freedom = images ** 2 / (rest ** 2 / 1 + images ** 2 / 2 + rest ** 2 / 2)
    assert found.half == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(images / 6))
    np.testing.assert_allclose(found.spreads, [0, np.sqrt((images - rest) / 2), np.sqrt(rest)], atol=1e-6)


def test_without_differences_between_images_it_is_the_t_interval_of_seeds():
    one = np.repeat(np.array([[True], [False], [True], [True]]), 5, axis=1)
    found = difference(one, np.zeros_like(one))
    seeds = np.array([100, 0, 100, 100])
    expected = stats.t.ppf(0.975, 3) * seeds.std(ddof=1) / 2
    assert found.half == pytest.approx(expected) == found.half_same_images


def test_networks_without_a_difference():
    same = np.eye(3, 7, dtype=bool)
    found = difference(same, same)
    assert (found.mean, found.half, found.half_same_images) == (0, 0, 0)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Verdicts made of a seed's, an image's and their own luck; the true difference is that of the two thresholds."""
    rng = np.random.default_rng(0)
    truth = 100 * (stats.norm.cdf(0.3 / np.sqrt(2)) - stats.norm.cdf(0))
    held = 0
    for _ in range(400):
        shared = rng.normal(size=(1, 60))
        one, other = (shift + rng.normal(scale=0.5, size=(8, 1)) + 0.5 * shared + rng.normal(scale=0.5, size=(1, 60))
                      + rng.normal(scale=np.sqrt(1.25), size=(8, 60)) > 0 for shift in (0.3, 0))
        found = difference(one, other)
        held += abs(found.mean - truth) <= found.half
    assert 0.92 * 400 <= held <= 0.98 * 400


@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (4, 1), (4,)])
def test_shapes_that_cannot_be_paired(shape):
    other = (3, 3) if shape == (2, 3) else shape
    with pytest.raises(ValueError, match="one and other must both be"):
        difference(np.zeros(shape), np.zeros(other))


def test_the_screening_fills_its_ranges_and_starts_alike():
    settings = screened()
    terms = [one for one in settings if one["morel.cosine_weight"]]
    assert (len(terms), len(settings)) == (32, 37)
    assert {one["seed"] for one in settings} == {SCREENING_SEED}
    weights = np.log10([one["morel.contrastive_weight"] for one in terms])
    assert -5 <= weights.min() < -4.5
    assert -0.5 < weights.max() <= 0
    assert all(sum(one["morel.preference"]) == pytest.approx(1) for one in settings)


def test_the_chosen_setting_is_the_one_that_held_out_images_choose():
    networks = [one for one in results.read()["screening"] if one["settings"]["morel.cosine_weight"]]
    best = max(networks, key=lambda one: one["validated"][-1]["robust_accuracy"])["settings"]
    assert {name.removeprefix("morel."): value for name, value in best.items() if name != "seed"} == (
        CHOSEN | {"preference": list(CHOSEN["preference"])})


def test_both_regimes_take_about_as_many_steps():
    steps = {group.regime.name: group.regime.images // 50 * group.regime.stages[-1] for group in GROUPS
             if group.regime is LONG or group.regime.name == "short"}
    assert steps == {"long": 1200, "short": 1140}
