import numpy as np
import pytest

from morel_jax.evaluation.recheck import VIOLATIONS, recheck
from tests.attacks.linear import Linear


def rechecked(x_adv, epsilon=0.1, norm="linf", model=None):
    model = model or Linear(count=6)
    return model, recheck(model.logits, model.x, x_adv, model.y, epsilon, norm)


def names(found):
    return [VIOLATIONS[number] for number in np.asarray(found.violation)]


def test_clean_images_are_unbroken_and_at_distance_zero():
    model, found = rechecked(Linear(count=6).x)
    np.testing.assert_array_equal(found.prediction, model.y)
    assert not found.broken.any()
    np.testing.assert_array_equal(found.distance, 0)
    assert names(found) == [""] * 6


def test_violations_are_named_and_never_count():
    model = Linear(count=6)
    towards = np.sign(model.weights[:, (model.y + 1) % 5] - model.weights[:, model.y]).T.reshape(model.x.shape)
    x_adv = (model.x + 0.09 * towards).astype(np.float32)
    x_adv[1, 0, 0, 0] = np.nan
    x_adv[2, 0, 0, 0] = 1.2
    x_adv[3, 0, 0, 0] = model.x[3, 0, 0, 0] + 0.11
    x_adv[4, 0, 0, 0] = model.x[4, 0, 0, 0] + 0.1 + 5e-7  # Rounding.
    _, found = rechecked(x_adv, model=model)
    assert names(found) == ["", "nan", "box", "ball", "", ""]
    assert not np.asarray(found.broken)[1:4].any()
    # Classified as projected, so their predictions are not those of the images that were handed in.
    assert np.isfinite(found.projected).all()
    assert np.abs(np.asarray(found.projected) - model.x).max() <= 0.1 + 1e-6
    np.testing.assert_array_equal(found.prediction[1], model.y[1])


def test_broken_is_what_the_network_says_of_the_projected_image():
    model = Linear(count=6)
    distances = model.distances("linf")
    x_adv = np.clip(model.x + 3 * distances.max(), 0, 1).astype(np.float32)
    _, found = rechecked(x_adv, epsilon=0.05, model=model)
    expected = np.argmax(model.logits(np.clip(x_adv, model.x - 0.05, model.x + 0.05)), -1)
    np.testing.assert_array_equal(found.prediction, expected)
    assert names(found) == ["ball"] * 6


def test_logits_that_are_not_finite_are_never_right():
    model = Linear(count=6)
    finite = model.logits

    def logits_fn(x):
        bad = np.array([np.nan, np.inf, -np.inf, 0, 0, 0], np.float32)
        return finite(x).at[:, 0].add(bad)

    model.logits = logits_fn
    _, found = rechecked(model.x, model=model)
    np.testing.assert_array_equal(found.prediction, [-1, -1, -1, *model.y[3:]])
    np.testing.assert_array_equal(found.broken, [True] * 3 + [False] * 3)
    np.testing.assert_array_equal(found.rounded_broken[:3], True)


def test_an_attack_without_a_radius_keeps_its_image():
    model = Linear(count=6)
    x_adv = np.float32(1) - model.x
    _, found = rechecked(x_adv, epsilon=np.inf, model=model)
    np.testing.assert_array_equal(found.projected, x_adv)
    assert names(found) == [""] * 6


def test_a_minimum_norm_attacks_image_is_judged_where_it_is_and_breaks_within_the_radius():
    model = Linear(count=6)
    towards = np.sign(model.weights[:, (model.y + 1) % 5] - model.weights[:, model.y]).T.reshape(model.x.shape)
    lengths = np.float32([0.02, 0.05, 0.1, 0.15, 0.2, 0.25])
    x_adv = model.x + lengths[:, None, None, None] * towards.astype(np.float32)
    x_adv[5, 0, 0, 0] = 1.2
    found = recheck(model.logits, model.x, x_adv, model.y, 0.101, minimal=True)
    assert names(found) == [""] * 5 + ["box"]
    np.testing.assert_array_equal(found.projected[:5], x_adv[:5])
    np.testing.assert_allclose(found.distance[:5], lengths[:5], rtol=1e-5)
    wrong = np.argmax(model.logits(x_adv), -1) != model.y
    assert wrong[2:].all()
    np.testing.assert_array_equal(found.broken, wrong & (np.arange(6) < 3))
    np.testing.assert_array_equal(found.rounded_broken[3:], False)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounded_images_are_in_the_ball(norm):
    random = np.random.default_rng(0)
    model = Linear(count=50)
    model.x = (np.round(model.x * 255) / 255).astype(np.float32)
    x_adv = model.x + random.uniform(-0.1, 0.1, model.x.shape).astype(np.float32)
    epsilon = 0.1 if norm == "linf" else 0.3
    _, found = rechecked(x_adv, epsilon, norm, model)
    delta = np.asarray(found.rounded, np.float64) / 255 - model.x
    if norm == "linf":
        assert np.abs(delta).max() <= 0.1 + 1e-6
    else:
        assert np.sqrt((delta**2).sum((1, 2, 3))).max() <= 0.3 + 1e-6
    assert np.abs(np.asarray(found.rounded) / 255 - np.asarray(found.projected)).max() < 1 / 255 + 1e-6


def test_a_whole_level_survives_rounding():
    model = Linear(count=6)
    model.x = (np.round(model.x * 255) / 255).astype(np.float32)
    x_adv = model.x + np.float32(8 / 255)
    _, found = rechecked(x_adv, 8 / 255, model=model)
    np.testing.assert_array_equal(found.rounded, np.round(model.x * 255) + 8)


def test_shapes_must_match():
    model = Linear(count=6)
    with pytest.raises(ValueError, match=r"must have the same shape; got \(6, 4, 4, 2\) and \(5, 4, 4, 2\)"):
        recheck(model.logits, model.x, model.x[:5], model.y, 0.1)
