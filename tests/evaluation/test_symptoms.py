import itertools

import numpy as np
import pytest

from morel_jax.evaluation import symptoms
from morel_jax.evaluation.symptoms import FAIL, NOT_JUDGED, PASS, Tally


def test_sign_test():
    assert symptoms.sign_test(5, 0) == 1 / 32
    assert symptoms.sign_test(0, 0) == 1
    assert symptoms.sign_test(3, 1) == 5 / 16
    assert symptoms.sign_test(0, 7) == 1
    np.testing.assert_allclose(symptoms.sign_test(5000, 5000), 0.504, atol=1e-3)
    assert symptoms.sign_test(symptoms.FEWEST_IMAGES, 0) <= symptoms.SIGNIFICANCE
    assert symptoms.sign_test(symptoms.FEWEST_IMAGES - 1, 0) > symptoms.SIGNIFICANCE


@pytest.mark.parametrize(("ahead", "behind", "images", "expected"), [
    (5, 0, 200, True), (4, 0, 200, False), (9, 4, 200, False), (40, 20, 10_000, False), (90, 30, 10_000, True)])
def test_a_difference_counts_beyond_chance_and_half_a_point(ahead, behind, images, expected):
    assert symptoms.clearly_more(ahead, behind, images, 0.5) == expected


@pytest.mark.parametrize(("gained", "images", "verdict"), [
    (1, 200, PASS), (2, 200, PASS), (3, 200, FAIL), (20, 10_000, PASS), (21, 10_000, FAIL)])
def test_square_fails_beyond_two_tenths_of_a_point_and_three_images(gained, images, verdict):
    found = symptoms.black_box_beats_white_box(gained, images, "in the full evaluation")
    assert found.verdict == verdict
    assert f"({gained} of {images} images" in found.text


@pytest.mark.parametrize(("noise", "pgd", "verdict"), [
    (2, 30, PASS), (27, 30, FAIL), (26, 30, NOT_JUDGED), (40, 30, FAIL), (2, 4, NOT_JUDGED), (4, 4, NOT_JUDGED),
    (5, 0, FAIL), (3, 6, NOT_JUDGED)])
def test_noise(noise, pgd, verdict):
    rows = np.arange(60)
    assert symptoms.noise_breaks_less(Tally(100, 60), rows < noise, rows < pgd).verdict == verdict


def test_gradients_fail_beyond_one_in_a_hundred():
    sizes = np.ones((100, 2), np.float32)
    assert symptoms.gradients_usable(sizes, sizes).verdict == PASS
    few, many = sizes.copy(), sizes.copy()
    few[:1], many[:2] = 0, 0
    assert symptoms.gradients_usable(few, sizes).verdict == PASS
    assert symptoms.gradients_usable(many, sizes).verdict == FAIL
    assert symptoms.gradients_usable(sizes * 1e-8, sizes).figures["ce_vanished"] == 1
    sizes[3, 1] = np.nan
    assert symptoms.gradients_usable(sizes, sizes).verdict == FAIL


def test_a_loss_that_falls_at_the_end_fails():
    rise = np.linspace(-1, 1, 21)
    assert symptoms.loss_rises(np.tile(rise, (9, 1))).verdict == PASS
    assert symptoms.loss_rises(np.tile(np.append(rise, 0.9), (9, 1))).verdict == PASS
    assert symptoms.loss_rises(np.tile(np.append(rise, 0.7), (9, 1))).verdict == FAIL
    assert symptoms.loss_rises(np.full((9, 21), np.nan)).verdict == NOT_JUDGED


@pytest.mark.parametrize(("ahead", "behind"), [(1, 0), (17, 9), (90, 30), (3, 400), (5300, 4700)])
def test_the_sign_test_is_exact(ahead, behind):
    tosses = ahead + behind
    ways = itertools.accumulate(range(tosses), lambda ways, heads: ways * (tosses - heads) // (heads + 1), initial=1)
    exact = sum(itertools.islice(ways, ahead, None)) / 2**tosses
    np.testing.assert_allclose(symptoms.sign_test(ahead, behind), exact, rtol=1e-9, atol=1e-12)
