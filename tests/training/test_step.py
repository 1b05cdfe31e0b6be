import dataclasses
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import losses
from morel_jax.configuration import METHODS
from morel_jax.optimizer import perturbed
from morel_jax.training.setup import build_hparams
from morel_jax.training.step import Batch, train_step
from tests.small import mostly_slow, small_config
from tests.training.steps import KEY, compiled, once, setup, still


@pytest.mark.parametrize("method", mostly_slow(METHODS, "standard", "trades", "morel_mart"))
def test_loss_falls_on_one_batch(method):
    config = still(method, optimizer__learning_rate=0.05, loss__loat_last_epoch=100)
    parts, hparams, state, batch = setup(config)
    step = compiled(parts)
    found = []
    for _ in range(25):
        state, metrics = step(state, hparams, batch, KEY)
        found.append(float(metrics["loss"]))
    assert np.mean(found[-3:]) < 0.8 * found[0]
    assert int(state.step) == 25


def test_swept_numbers_compile_once():
    config = still("morel_loat")
    parts, hparams, state, batch = setup(config)
    step = compiled(parts)
    first = step(state, hparams, batch, KEY)
    own = METHODS[config.method].fields
    others = {field.traced for method in METHODS.values() for name, field in method.fields.items() if name not in own}
    # Without an average, AWP or CutMix, in a first step, in LOAT, and in CS of one preference, these act on nothing.
    others |= {"preference_range", "smoothing", "famo_learning_rate", "famo_weight_decay", "ema_decay",
               "swa_first_step", "momentum", "label_smoothing", "awp_gamma", "cutmix_alpha"}
    for name, leaf in {"attack": hparams.attack, **hparams.numbers}.items():
        if name == "attack":
            changed = hparams.replace(attack=leaf.replace(epsilon=np.float32(0.2), step_size=np.float32(0.1)))
        elif name == "loat_phase":
            changed = hparams.replace(loat_phase=np.int32((leaf + 1) % 3))
        elif name in others:
            continue
        else:
            changed = hparams.replace(**{name: np.asarray(leaf * 0.5 + 0.1, np.float32)})
        second = step(state, changed, batch, KEY)
        difference = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(initial=0), first, second)
        assert max(jax.tree.leaves(difference)) > 0, name


def test_sgd_is_pytorchs_by_hand():
    config = still("standard", optimizer__weight_decay=0.01)
    parts, hparams, state, batch = setup(config)
    step = compiled(parts)

    def gradient(state):
        free = hparams.replace(weight_decay=np.float32(0), momentum=np.float32(0), learning_rate=np.float32(1))
        moved, _ = step(state, free, batch, KEY)
        return jax.tree.map(lambda a, b: a - b, state.params, moved.params)

    first_gradient = gradient(state)
    one, _ = step(state, hparams, batch, KEY)
    buffer = jax.tree.map(lambda g, p: g + 0.01 * p, first_gradient, state.params)
    chex.assert_trees_all_close(one.params, jax.tree.map(lambda p, b: p - 0.01 * b, state.params, buffer), atol=1e-6)
    two, _ = step(one, hparams, batch, KEY)
    buffer = jax.tree.map(lambda b, g, p: 0.9 * b + g + 0.01 * p, buffer, gradient(one), one.params)
    chex.assert_trees_all_close(two.params, jax.tree.map(lambda p, b: p - 0.01 * b, one.params, buffer), atol=1e-6)


def test_running_statistics_move_once_for_each_name():
    def moved(config):
        parts, hparams, state, batch = setup(config)
        return compiled(parts)(state, hparams, batch, KEY)[0].batch_stats

    config = still("trades")
    parts, _, state, images = setup(config)
    start = jax.device_get(state.batch_stats)
    assert config.batch_norm.statistics_from == ("natural", "adversarial")
    natural = jax.jit(partial(parts.model.apply, train=True, mutable=["batch_stats"]))(
        state.inference_variables(), images.images / np.float32(255))[1]["batch_stats"]
    adversarial = jax.tree.map(lambda m, r, n: (m - 0.9 * (0.9 * r + 0.1 * n)) / 0.1, moved(config), start, natural)
    batch = {"natural": natural, "adversarial": adversarial}
    expected = start
    order = ("natural", "adversarial", "natural", "natural", "adversarial")
    for name in order:
        expected = jax.tree.map(lambda r, b: 0.9 * r + 0.1 * b, expected, batch[name])
    chex.assert_trees_all_close(moved(still("trades", batch_norm__statistics_from=order)), expected, rtol=1e-4,
                                atol=1e-5)


def test_average_of_weights():
    config = still("trades", ema_decay=0.75, model__precision="bfloat16")
    parts, hparams, state, batch = setup(config)
    after, _ = compiled(parts)(state, hparams, batch, KEY)
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, state.params["classifier"], after.params["classifier"])
    chex.assert_trees_all_close(after.inference_variables()["params"], expected, rtol=1e-6)
    plain = setup(still("trades"))[2]
    assert plain.average is None


def test_plain_average_of_weights():
    """The mean of the weights after steps 2 to 5, counted from 0; before, the latest."""
    config = small_config("standard", batch_norm__statistics_from=("natural",), swa_first_epoch=2)
    parts, _, state, batch = setup(config)
    hparams = build_hparams(config, epoch=1, steps_per_epoch=2)
    assert int(hparams.swa_first_step) == 2
    step, seen = once(train_step, parts), []
    for number in range(6):
        state, _ = step(state, hparams, batch, KEY)
        seen.append(state.params["classifier"])
        if number < 3:
            chex.assert_trees_all_close(state.average["params"], seen[-1], rtol=1e-6)
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *seen[2:])
    chex.assert_trees_all_close(state.average["params"], expected, rtol=1e-5, atol=1e-7)


def test_perturbed_weights_by_hand():
    params = {"classifier": {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.array([1.0])},
              "embedding": {"kernel": jnp.ones((2, 2))}}
    grads = jax.tree.map(jnp.ones_like, params)
    moved = perturbed(params, grads, 0.1)
    # |w| = 5, |g| = 2: each entry moves by 0.1 * 5 / 2.
    np.testing.assert_allclose(moved["classifier"]["kernel"], params["classifier"]["kernel"] + 0.25, rtol=1e-6)
    assert moved["classifier"]["bias"] is params["classifier"]["bias"]
    assert moved["embedding"] is params["embedding"]
    zero = perturbed(params, jax.tree.map(jnp.zeros_like, params), 0.1)
    chex.assert_trees_all_equal(zero, params)


@pytest.mark.slow
def test_awp_descends_from_the_old_weights_with_the_perturbed_gradient():
    config = still("trades", loss__awp=True, loss__awp_gamma=0.05, optimizer__weight_decay=0.0,
                   optimizer__momentum=0.0)
    parts, hparams, state, batch = setup(config)
    # Images are crafted on the weights as they were; at radius 0 they are the same on the perturbed ones.
    hparams = hparams.replace(attack=hparams.attack.replace(epsilon=np.float32(0), step_size=np.float32(0)))
    with_awp = compiled(parts)
    without = compiled(setup(still("trades"))[0])

    def gradient(state):
        return jax.tree.map(lambda a, b: (a - b) / hparams.learning_rate, state.params,
                            without(state, hparams, batch, KEY)[0].params)

    none, _ = with_awp(state, hparams.replace(awp_gamma=np.float32(0)), batch, KEY)
    chex.assert_trees_all_close(none.params, without(state, hparams, batch, KEY)[0].params, atol=1e-6)
    got, _ = with_awp(state, hparams, batch, KEY)
    there = state.replace(params=perturbed(state.params, gradient(state), hparams.awp_gamma))
    expected = jax.tree.map(lambda p, g: p - hparams.learning_rate * g, state.params, gradient(there))
    chex.assert_trees_all_close(got.params, expected, atol=2e-6)


@pytest.mark.slow
def test_cutmix_reaches_attack_and_update():
    config = still("trades", data__cutmix=True)
    parts, hparams, state, batch = setup(config)
    _, mixed = once(train_step, parts)(state, hparams, batch, KEY)
    _, plain = compiled(setup(still("trades"))[0])(state, hparams, batch, KEY)
    assert np.isfinite(mixed["loss"])
    assert float(mixed["loss"]) != float(plain["loss"])


def test_no_average_is_kept_unasked():
    plain = setup(still())[2]
    assert plain.average is None
    chex.assert_trees_all_equal(plain.inference_variables()["params"], plain.params["classifier"])


def test_inference_model_has_no_embedding_parameters():
    state = setup(still("morel_trades"))[2]
    assert set(state.params) == {"classifier", "embedding"}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.inference_variables())]
    assert paths
    assert not any("embedding" in path or "attention" in path for path in paths)
    assert set(setup(still("trades"))[2].params) == {"classifier"}


def test_attack_computes_no_kernel_gradient():
    parts, hparams, state, batch = setup(still("trades"))
    attack_only = jax.make_jaxpr(lambda x: hparams.attack(
        lambda z: parts.model.apply({"params": state.params["classifier"], "batch_stats": state.batch_stats}, z).logits,
        KEY, x, batch.labels))(jnp.zeros((8, 8, 8, 1)))
    whole = compiled(parts).trace(state, hparams, batch, KEY).jaxpr
    assert "conv_kernel_grad" not in str(attack_only)
    assert "conv_input_grad" in str(attack_only)
    assert "conv_kernel_grad" in str(whole)


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_batch_norm_mode_of_the_attack(batch_norm):
    parts, hparams, state, batch = setup(still("pgd_at", attack__batch_norm=batch_norm))
    # Running statistics far from any batch: only an attack that uses them is changed by them.
    far = state.replace(batch_stats=jax.tree.map(lambda r: 30 * r + 3, state.batch_stats))
    step = compiled(parts)
    near_loss, far_loss = (float(step(s, hparams, batch, KEY)[1]["loss"]) for s in (state, far))
    assert (near_loss == far_loss) == (batch_norm == "batch")


def test_noise_depends_on_step_and_example_not_on_place():
    parts, hparams, state, batch = setup(small_config("pgd_at", optimizer__learning_rate=0.0))
    step = compiled(parts)
    order = np.array([3, 0, 7, 5, 1, 2, 6, 4])
    moved = Batch(batch.images[order], batch.labels[order], batch.index[order])
    loss = float(step(state, hparams, batch, KEY)[1]["loss"])
    np.testing.assert_allclose(step(state, hparams, moved, KEY)[1]["loss"], loss, rtol=1e-5)
    other_step = state.replace(step=state.step + 1)
    assert abs(float(step(other_step, hparams, batch, KEY)[1]["loss"]) - loss) > 1e-4


def test_step_vmaps_over_hyper_parameters():
    parts, hparams, state, batch = setup(still("trades"))
    betas = np.float32([0.5, 1.0, 6.0])
    axes = jax.tree.map(lambda _: None, hparams).replace(beta=0)
    step = partial(train_step, parts=parts)
    together, _ = jax.jit(jax.vmap(step, in_axes=(None, axes, None, None)))(
        state, hparams.replace(beta=betas), batch, KEY)
    for member, beta in enumerate(betas):
        alone, _ = compiled(parts)(state, hparams.replace(beta=beta), batch, KEY)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, m=member: leaf[m], together.params), alone.params,
                                    rtol=1e-3, atol=1e-5)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    parts, hparams, state, batch = setup(still("trades", ema_decay=0.75, model__precision="bfloat16"))
    step = compiled(parts)
    after, metrics = step(state, hparams, batch, KEY)
    chex.assert_tree_all_finite(metrics)
    for leaf in jax.tree.leaves((after.params, after.batch_stats, after.opt_state, after.average)):
        assert leaf.dtype == jnp.float32
    assert "bf16" in str(step.trace(state, hparams, batch, KEY).jaxpr)


# All are the same step but for the function that weighs the two gradients.
@pytest.mark.slow
@pytest.mark.parametrize("name", losses.GRADIENT_METHODS)
def test_gradient_methods_combine_the_losses_gradients(name):
    """Against the gradients of both losses taken alone, by weighted sums with preferences (1, 0) and (0, 1)."""
    options = dict(optimizer__weight_decay=0.0, optimizer__momentum=0.0)
    parts, hparams, state, batch = setup(still(morel__scalarization=name, **options))
    assert parts.combine is losses.GRADIENT_METHODS[name]
    summed = setup(still(morel__scalarization="weighted_sum", **options))[0]
    step = compiled(summed)

    def gradient(preference):
        moved, _ = step(state, hparams.replace(preference=np.float32(preference)), batch, KEY)
        return jax.tree.map(lambda a, b: (a - b) / hparams.learning_rate, state.params, moved.params)

    both = gradient((1, 0)), gradient((0, 1))
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one["classifier"])]) for one in both]
    weights = losses.GRADIENT_METHODS[name](np.array([[a @ b for b in flat] for a in flat], np.float32))
    expected = jax.tree.map(lambda p, a, b: p - hparams.learning_rate * (weights[0] * a + weights[1] * b),
                            state.params, *both)
    got, metrics = compiled(parts)(state, hparams, batch, KEY)
    chex.assert_trees_all_close(got.params, expected, rtol=1e-3, atol=2e-5)
    assert float(metrics["loss"]) == pytest.approx(
        float(metrics["representation_loss"] + metrics["classification_loss"]), rel=1e-6)


def flattened(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.slow
def test_three_objectives_are_combined():
    """Against the gradients of each alone, by weighted sums in which the others have no weight."""
    options = dict(optimizer__weight_decay=0.0, optimizer__momentum=0.0, morel__contrastive_weight=0.01)
    parts, hparams, state, batch = setup(still(morel__scalarization="upgrad", morel__objectives="three", **options))
    step = compiled(setup(still(morel__scalarization="weighted_sum", **options))[0])

    def gradient(cosine, contrastive, classification):
        alone = hparams.replace(cosine_weight=np.float32(cosine), contrastive_weight=np.float32(0.01 * contrastive),
                                preference=np.float32([1 - classification, classification]))
        moved, _ = step(state, alone, batch, KEY)
        return jax.tree.map(lambda a, b: (a - b) / hparams.learning_rate, state.params, moved.params)

    each = [gradient(*row) for row in np.eye(3)]
    rows = np.stack([flattened(one["classifier"]) for one in each])
    weights = losses.upgrad(rows @ rows.T)
    expected = jax.tree.map(lambda p, *leaves: p - hparams.learning_rate * sum(
        weight * leaf for weight, leaf in zip(weights, leaves, strict=True)), state.params, *each)
    got, _ = compiled(parts)(state, hparams, batch, KEY)
    chex.assert_trees_all_close(got.params, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_famo_weighs_the_losses_and_learns_from_the_same_images():
    """Of an attack that does not move, images do not depend on the parameters."""
    options = dict(optimizer__weight_decay=0.0, optimizer__momentum=0.0, attack__step_size=1e-6,
                   attack__epsilon=0.1, morel__contrastive_weight=0.01)
    parts, hparams, state, batch = setup(still(morel__scalarization="famo", morel__objectives="three", **options))
    state = state.replace(famo=losses.famo_start(parts.famo_objectives))
    summed = compiled(setup(still(morel__scalarization="weighted_sum", **options))[0])

    def of(state):
        """Losses, from the metrics of a step that goes nowhere."""
        _, metrics = summed(state.replace(step=np.int32(0), famo=None), hparams.replace(
            learning_rate=np.float32(0)), batch, KEY)
        return np.float32([metrics["cosine_loss"], 0.01 * metrics["contrastive_loss"],
                           metrics["classification_loss"]])

    step = compiled(parts)
    one, _ = step(state, hparams, batch, KEY)
    expected = losses.famo_update(state.famo, of(state), of(one.replace(batch_stats=state.batch_stats)))
    np.testing.assert_allclose(one.famo.logits, expected.logits, rtol=1e-2)
    np.testing.assert_allclose(one.famo.adam.mu, expected.adam.mu, rtol=2e-2, atol=1e-6)
    # All weight on classification is classification alone.
    logits = np.full(parts.famo_objectives, -40, np.float32)
    logits[-1] = 40
    sure, _ = step(state.replace(famo=state.famo._replace(logits=logits)), hparams, batch, KEY)
    alone, _ = summed(state.replace(famo=None), hparams.replace(preference=np.float32([0, 1])), batch, KEY)
    chex.assert_trees_all_close(sure.params["classifier"], alone.params["classifier"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["upgrad", "famo"])
def test_three_objectives_are_joined_in_bfloat16(name):
    parts, hparams, state, batch = setup(still(morel__scalarization=name, morel__objectives="three",
                                               model__precision="bfloat16"))
    if parts.famo_objectives:
        state = state.replace(famo=losses.famo_start(parts.famo_objectives))
    found, before = [], state
    for _ in range(5):
        state, metrics = compiled(parts)(state, hparams, batch, KEY)
        found.append(metrics["loss"])
    chex.assert_tree_all_finite((state.params, found))
    assert np.abs(flattened(state.params) - flattened(before.params)).max() > 1e-5


class _InTwoPasses(nn.Module):
    """The same network without the attributes by which both kinds of images go through it together."""
    inner: nn.Module
    batch_norm_momentum: float = 0.0

    def __call__(self, images, train=False):
        return self.inner(images, train)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mart", "morel_trades"])
def test_both_kinds_in_one_pass_are_as_in_two(method):
    with jax.enable_x64(True):
        parts, hparams, state, batch = setup(still(method, attack__epsilon=1e-5, attack__step_size=1e-5))
        parts = dataclasses.replace(parts, model=parts.model.clone(dtype=jnp.float64))

        def inside(tree):
            return {"inner": tree}

        def wide(leaf):
            return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        together = jax.tree.map(wide, state)
        nest = {"params": together.params | {"classifier": inside(together.params["classifier"])}}
        apart = together.replace(**nest, batch_stats=inside(together.batch_stats),
                                 opt_state=parts.optimizer(hparams).init(nest["params"]))
        new, metrics = compiled(parts)(together, hparams, batch, KEY)
        other, other_metrics = compiled(dataclasses.replace(parts, model=_InTwoPasses(parts.model)))(
            apart, hparams, batch, KEY)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), metrics,
                     other_metrics)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
                     (inside(new.params["classifier"]), inside(new.batch_stats)),
                     (other.params["classifier"], other.batch_stats))


@pytest.mark.slow
def test_dropout_of_the_embedding_space_is_another_one_in_each_step():
    parts, hparams, state, batch = setup(still(embedding__dropout=0.5))
    step = compiled(parts)
    _, first = step(state, hparams, batch, KEY)
    _, again = step(state, hparams, batch, KEY)
    _, later = step(state.replace(step=state.step + 1), hparams, batch, KEY)
    assert first["contrastive_loss"] == again["contrastive_loss"]
    # Neither images nor attack know the step here but by their start: without dropout the loss changes far less.
    apart = abs(float(later["contrastive_loss"] - first["contrastive_loss"]))
    plain_parts, _, _, _ = setup(still())
    plain = compiled(plain_parts)
    without = [float(plain(one, hparams, batch, KEY)[1]["contrastive_loss"])
               for one in (state, state.replace(step=state.step + 1))]
    assert apart > 10 * abs(without[1] - without[0])
