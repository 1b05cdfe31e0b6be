from functools import partial

import jax
import numpy as np
import pytest

from morel_jax import losses
from morel_jax.methods import METHODS, MixedLabels, Views
from morel_jax.training.setup import build_hparams
from tests.small import small_config

RANDOM = np.random.default_rng(0)
LABELS = np.int32([0, 1, 0, 2, 1, 0])


def views():
    def rows(width):
        return RANDOM.normal(size=(6, width)).astype(np.float32)
    return Views(rows(3), rows(3), rows(8), rows(8), rows(8), rows(8))


def evaluate(config, given):
    loss, metrics = METHODS[config.method].objective(config)(given, LABELS, build_hparams(config, epoch=1))
    return float(loss), {name: float(value) for name, value in metrics.items()}


def contrastive_by_hand(rows, labels, temperature):
    """Eq. 9, term by term."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    terms = []
    for j in range(len(rows)):
        others = [q for q in range(len(rows)) if q != j]
        positives = [p for p in others if labels[p] == labels[j]]
        total = sum(np.exp(rows[j] @ rows[q] / temperature) for q in others)
        terms.append(-sum(np.log(np.exp(rows[j] @ rows[p] / temperature) / total) for p in positives)
                     / max(len(positives), 1))
    return terms


def cosine_by_hand(s, s_adv):
    return np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(s, s_adv, strict=True)])


@pytest.mark.parametrize("base", ["trades", "mart"])
def test_morel_as_the_paper_prints_it(base):
    given = views()
    both = np.concatenate([given.attended, given.attended_adv]).astype(np.float64)
    contrastive = np.sum(contrastive_by_hand(both, np.tile(LABELS, 2), 0.1))
    representation = cosine_by_hand(given.projected, given.projected_adv) + 1e-5 * contrastive
    accuracy = np.mean(getattr(losses, base)(given.logits, given.logits_adv, LABELS, 6.0))
    loss, metrics = evaluate(small_config(f"morel_{base}"), given)
    np.testing.assert_allclose(metrics["contrastive_loss"], contrastive, rtol=1e-5)
    np.testing.assert_allclose(metrics["representation_loss"], representation, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.10002 * representation + 0.90002 * accuracy, rtol=1e-5)


def test_morel_as_the_reference_reads_it():
    given = views()
    # Class 2 has one natural row: it has no positive, and counts as zero in the mean.
    contrastive = np.mean(contrastive_by_hand(given.attended.astype(np.float64), LABELS, 0.1))
    _, metrics = evaluate(small_config("morel_mart", "reference"), given)
    np.testing.assert_allclose(metrics["contrastive_loss"], contrastive, rtol=1e-5)


def test_weighted_sum():
    given = views()
    loss, metrics = evaluate(small_config(morel__scalarization="weighted_sum"), given)
    np.testing.assert_allclose(
        loss, 0.1 * metrics["representation_loss"] + 0.9 * metrics["classification_loss"], rtol=1e-6)


def test_reference_point_and_augmentation():
    given = views()
    loss, metrics = evaluate(small_config(morel__reference_point=(0.05, 0.2), morel__augmentation=0.01), given)
    np.testing.assert_allclose(
        loss, 0.11 * (metrics["representation_loss"] - 0.05) + 0.91 * (metrics["classification_loss"] - 0.2), rtol=1e-5)


@pytest.mark.parametrize(("method", "expected"), [
    ("standard", lambda v: losses.cross_entropy(v.logits, LABELS)),
    ("pgd_at", lambda v: losses.cross_entropy(v.logits_adv, LABELS)),
    ("trades", lambda v: losses.trades(v.logits, v.logits_adv, LABELS, 6.0)),
    ("mart", lambda v: losses.mart(v.logits, v.logits_adv, LABELS, 6.0)),
])
def test_baselines_are_their_loss_averaged(method, expected):
    given = views()
    loss, _ = evaluate(small_config(method), given)
    np.testing.assert_allclose(loss, np.mean(expected(given)), rtol=1e-6)


def test_loats_phases_follow_the_epoch():
    given = views()
    config = small_config("loat", loss__loat_last_epoch=5)
    objective = jax.jit(partial(METHODS[config.method].objective(config), given, LABELS))
    by_epoch = {epoch: float(objective(build_hparams(config, epoch))[0]) for epoch in (1, 2, 4, 5, 9)}
    mart = float(np.mean(losses.mart(given.logits, given.logits_adv, LABELS, 6.0)))
    np.testing.assert_allclose([by_epoch[2], by_epoch[4]], mart, rtol=1e-6)
    assert by_epoch[5] == by_epoch[9]
    assert len({by_epoch[1], by_epoch[2], by_epoch[5]}) == 3


def test_mixed_labels_weigh_both_losses():
    config, given = small_config("trades"), views()
    second, share = np.int32([1, 1, 2, 2, 0, 0]), np.float32([1, 0, 0.5, 0.25, 0.75, 1])
    hparams = build_hparams(config, epoch=1)
    loss, _ = METHODS[config.method].objective(config)(given, MixedLabels(LABELS, second, share), hparams)
    of_each = [losses.trades(given.logits, given.logits_adv, labels, 6.0) for labels in (LABELS, second)]
    assert float(loss) == pytest.approx(float(np.mean(share * of_each[0] + (1 - share) * of_each[1])), rel=1e-5)


def test_trades_with_smoothed_labels():
    config, given = small_config("trades", loss__label_smoothing=0.2), views()
    expected = np.mean(losses.cross_entropy(given.logits, LABELS, 0.2)
                       + 6 * losses.kl_divergence(given.logits, given.logits_adv))
    assert evaluate(config, given)[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_cosine_loss_can_be_weighed():
    given = views()
    whole, half = (evaluate(small_config(morel__cosine_weight=weight), given)[1] for weight in (1.0, 0.5))
    assert half["cosine_loss"] == whole["cosine_loss"]
    assert whole["representation_loss"] - half["representation_loss"] == pytest.approx(whole["cosine_loss"] / 2,
                                                                                       rel=1e-5)


@pytest.mark.parametrize("name", losses.MULTI_OBJECTIVE)
def test_gradients_are_joined_by_the_method_that_the_config_names(name):
    config = small_config(morel__scalarization=name)
    assert METHODS[config.method].combine(config) is losses.GRADIENT_METHODS.get(name)
    assert METHODS[config.method].famo_objectives(config) == (2 if name == "famo" else 0)
    assert METHODS["trades"].combine(config) is None
    assert METHODS["trades"].famo_objectives(config) == 0


def test_smooth_tchebycheff_of_both_losses():
    changes = dict(morel__preference=(0.4, 0.6), morel__reference_point=(0.1, 0.2), morel__smoothing=0.25)
    value, metrics = evaluate(small_config(morel__scalarization="smooth_tchebycheff", **changes), views())
    both = np.float32([metrics["representation_loss"], metrics["classification_loss"]])
    expected = 0.25 * np.log(np.exp(np.float32([0.4, 0.6]) * (both - np.float32([0.1, 0.2])) / 0.25).sum())
    assert value == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["upgrad", "famo"])
def test_three_objectives_are_the_terms_of_two(name):
    given, found = views(), {}
    for objectives in ("two", "three"):
        config = small_config(morel__scalarization=name, morel__objectives=objectives, morel__cosine_weight=0.5,
                              morel__contrastive_weight=0.01)
        found[objectives], metrics = METHODS[config.method].objective(config)(given, LABELS, build_hparams(config, 1))
        assert float(metrics["loss"]) == pytest.approx(float(found[objectives].sum()))
    cosine, contrastive, classification = found["three"]
    assert float(cosine) == pytest.approx(0.5 * float(metrics["cosine_loss"]))
    assert float(contrastive) == pytest.approx(0.01 * float(metrics["contrastive_loss"]))
    np.testing.assert_allclose([cosine + contrastive, classification], found["two"], rtol=1e-6)
