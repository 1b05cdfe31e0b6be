"""One training step, and the compiled loop over many of them."""
import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from morel_jax.attacks.keys import fold_in_each
from morel_jax.checks import describe
from morel_jax.data.augment import crop_and_flip, cutmix, to_float
from morel_jax.methods import MixedLabels, Views
from morel_jax.optimizer import average_kept, moved, perturbed, rate_at

# Purposes of randomness, folded into the step's key.
_AUGMENT, _ATTACK, _CUTMIX = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Parts:
    """What fixes the compiled program of a step.

    Attributes:
        model: classifier; its BatchNorm must have momentum 0, so that a forward pass in training mode returns
            the batch's own statistics. The step moves the running ones.
        embedding: EmbeddingSpace, or None for a method without one.
        objective: (views, labels, hparams) -> (scalar, metrics).
        optimizer: hparams -> optax transformation, without learning rate.
        passes: which of ``natural`` and ``adversarial`` images go through the network in the update.
        statistics_from: whose statistics move the running ones, in this order; each in ``passes``.
        attack_batch_norm: ``running`` or ``batch`` statistics in the attack.
        crop_padding, flip: augmentation.
        accumulate: into how many equal parts a batch is cut, see :func:`train_step`.
        cutmix: whether images get rectangles of others, see :func:`~morel_jax.data.augment.cutmix`.
        combine: of ``losses.GRADIENT_METHODS``, where the objective gives two losses; None where it gives one.
        awp: whether gradients are taken at adversarially perturbed weights, see :func:`~morel_jax.optimizer.perturbed`.
    """
    model: nn.Module
    embedding: nn.Module | None
    objective: Callable
    optimizer: Callable
    passes: tuple[str, ...]
    statistics_from: tuple[str, ...]
    attack_batch_norm: str = "running"
    crop_padding: int = 4
    flip: bool = True
    accumulate: int = 1
    awp: bool = False
    cutmix: bool = False
    combine: Callable | None = None


def keep_last(function):
    """Keeps a function's last result for its next call, where all arguments have a hash: a caller's own model may hold
    what has none, such as an array."""
    kept = functools.lru_cache(maxsize=1)(function)

    @functools.wraps(function)
    def call(*arguments):
        try:
            hash(arguments)
        except TypeError:
            return function(*arguments)
        return kept(*arguments)

    call.cache_clear = kept.cache_clear  # type: ignore[attr-defined]  # As functools' own functions have it.
    return call


@struct.dataclass
class Batch:
    """Images of one step.

    Attributes:
        images: uint8[n, h, w, c].
        labels: int32[n].
        index: int32[n], place in the data set; an example's noise depends on it.
    """
    images: Any
    labels: Any
    index: Any


@struct.dataclass
class Piece:
    """The examples of some steps of an epoch.

    Attributes:
        images, labels: uint8[m, h, w, c] and int32[m], the data set; or uint8[k, n, h, w, c] and int32[k, n], the
            examples of each step.
        rows: int32[k, n], where in ``images`` the examples of each step are; None for the second form.
        index: int32[k, n], the same examples' places in the data set.
    """
    images: Any
    labels: Any
    rows: Any
    index: Any


@struct.dataclass
class Totals:
    """Sums over the steps of an epoch.

    Attributes:
        sums: dict of float32[], each metric summed over steps.
        count: int32[], steps summed.
        first_bad_step: int32[], the first step whose loss or new parameters were not finite, or -1.
    """
    sums: Any
    count: Any
    first_bad_step: Any


def _attack(state, hparams, x, labels, keys, parts):
    """Adversarial images. Only gradients with respect to the images are computed."""
    variables = {"params": state.params["classifier"], "batch_stats": state.batch_stats}

    def logits_fn(images):
        if parts.attack_batch_norm == "running":
            return parts.model.apply(variables, images).logits
        return parts.model.apply(variables, images, train=True, mutable=["batch_stats"])[0].logits

    x_adv = hparams.attack(logits_fn, keys, x, labels)
    if (getattr(x_adv, "shape", None), getattr(x_adv, "dtype", None)) != (x.shape, x.dtype):
        raise ValueError(f"attack must return images like those it is given, {describe(x)}; got {describe(x_adv)}.")
    return x_adv


def _everywhere(rows, layout):
    """An array with one row per example, whole on every device."""
    return rows if layout is None else jax.lax.with_sharding_constraint(rows, layout.replicated)


def _laid_out(state, layout):
    return state if layout is None else jax.lax.with_sharding_constraint(state, layout.state(state))


def _forward(params, batch_stats, x, labels, parts, layout):
    """(logits, projected, attended, the batch's own statistics) of one kind of images."""
    outputs, moved = parts.model.apply({"params": params["classifier"], "batch_stats": batch_stats}, x,
                                       train=True, mutable=["batch_stats"])
    projected = attended = None
    if parts.embedding is not None:
        # Every row meets every other here. That is little work beside the network's: each device does all of it, and
        # what is sent is the features, once.
        features = _everywhere(outputs.features, layout)
        projected, attended = parts.embedding.apply({"params": params["embedding"]}, features, labels)
    return outputs.logits, projected, attended, moved.get("batch_stats", {})


def _all_finite(tree):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _accuracy(logits, labels):
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _combined_gradients(losses_of, params, combine):
    """(one descent direction of two losses, what they give beside); one pass forwards, both backwards at once.

    The gradients meet on the classifier's weights, which both losses reach.
    """
    values, pull_back, aux = jax.vjp(losses_of, params, has_aux=True)
    # Like ``values``: in a population's shard_map an array of constants would not do.
    each = jnp.where(jnp.eye(2, dtype=bool), jnp.ones_like(values), jnp.zeros_like(values))
    (grads,) = jax.vmap(pull_back)(each)
    rows = [leaf.reshape(2, -1) for leaf in jax.tree.leaves(grads["classifier"])]
    # Differences of these decide: an accelerator's shorter products would not do.
    gram = sum(jnp.matmul(both, both.T, precision=jax.lax.Precision.HIGHEST) for both in rows)
    weights = combine(gram)
    return jax.tree.map(lambda leaf: weights[0] * leaf[0] + weights[1] * leaf[1], grads), aux


def _gradients(state, hparams, step_key, parts, layout, batch):
    """(gradients, metrics, {kind: the batch's own statistics}) of examples that go through the network together."""
    augment_keys = fold_in_each(jax.random.fold_in(step_key, _AUGMENT), batch.index)
    x = to_float(crop_and_flip(augment_keys, batch.images, parts.crop_padding, parts.flip))
    targets = labels = batch.labels if parts.embedding is None else _everywhere(batch.labels, layout)
    if parts.cutmix:
        x, partner, share = cutmix(fold_in_each(jax.random.fold_in(step_key, _CUTMIX), batch.index), x,
                                   hparams.cutmix_alpha)
        targets = MixedLabels(labels, labels[partner], share)
    images = {"natural": x}
    if "adversarial" in parts.passes:
        attack_keys = fold_in_each(jax.random.fold_in(step_key, _ATTACK), batch.index)
        images["adversarial"] = _attack(state, hparams, x, batch.labels, attack_keys, parts)

    def loss(params):
        outputs = {kind: _forward(params, state.batch_stats, images[kind], labels, parts, layout)
                   for kind in parts.passes}
        logits, projected, attended, _ = outputs.get("natural", (None,) * 4)
        logits_adv, projected_adv, attended_adv, _ = outputs.get("adversarial", (None,) * 4)
        value, metrics = parts.objective(
            Views(logits, logits_adv, projected, projected_adv, attended, attended_adv), targets, hparams)
        for kind, (kind_logits, *_) in outputs.items():
            metrics[f"{kind}_accuracy"] = _accuracy(kind_logits, labels)
        return value, (metrics, {kind: stats for kind, (*_, stats) in outputs.items()})

    if parts.combine is not None:
        grads, (metrics, batch_stats) = _combined_gradients(loss, state.params, parts.combine)
        return grads, metrics, batch_stats
    params = state.params
    if parts.awp:
        params = perturbed(params, jax.grad(loss, has_aux=True)(params)[0], hparams.awp_gamma)
    grads, (metrics, batch_stats) = jax.grad(loss, has_aux=True)(params)
    return grads, metrics, batch_stats


def _mean_over_parts(function, batch, count):
    """Mean of ``function`` over ``count`` equal parts of a batch, one after another.

    Example i is of part i % count: each device then holds its share of every part, and no part depends on how many
    devices there are.
    """
    if count == 1:
        return function(batch)
    cut = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, count, *a.shape[1:]), 1, 0), batch)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, jax.tree.map(lambda a: a[0], cut)))
    total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, cut)
    return jax.tree.map(lambda a: a / count, total)


def train_step(state, hparams, batch, key, *, parts, layout=None):
    """One update: augment, attack, and descend.

    With ``parts.accumulate`` > 1 the batch is worked on in so many equal parts, one after another, and the update takes
    the means of their gradients and of their BatchNorm statistics: memory falls, and BatchNorm normalises over a part.

    Args:
        state: TrainState.
        hparams: HParams of this epoch.
        batch: Batch of n examples.
        key: the run's key; the step's number and the examples' indices are folded in.
        parts: Parts.
        layout: :class:`~morel_jax.sharding.Layout` of the run's devices; None: XLA decides what is computed where.

    Returns:
        (TrainState, metrics): metrics is a dict of float32[] (float64[] of float64 parameters), means over the batch.
    """
    step_key = jax.random.fold_in(key, state.step)
    grads, metrics, batch_stats = _mean_over_parts(
        partial(_gradients, state, hparams, step_key, parts, layout), batch, parts.accumulate)
    metrics["gradient_norm"] = optax.tree.norm(grads)
    updates, opt_state = parts.optimizer(hparams).update(grads, state.opt_state, state.params)
    rate = rate_at(hparams, state.step)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    running = state.batch_stats
    for kind in parts.statistics_from:
        running = moved(running, batch_stats[kind], hparams.batch_norm_momentum)
    state = state.replace(step=state.step + 1, params=params, batch_stats=running, opt_state=opt_state)
    if state.average is not None:
        latest = {"params": params["classifier"], "batch_stats": running}
        state = state.replace(average=moved(state.average, latest, average_kept(hparams, state.step - 1)))
    return state, jax.tree.map(lambda metric: metric.astype(jnp.promote_types(metric.dtype, jnp.float32)), metrics)


@keep_last
def _jitted_step(parts, layout):
    """Traced once for the shapes of one run: for its metrics, for its loop, and not anew for the next run like it."""
    return jax.jit(partial(train_step, parts=parts, layout=layout))


def empty_totals(state, hparams, batch, key, *, parts, layout=None):
    """Totals of no step, with the metrics that `parts` gives; arguments may be shapes (ShapeDtypeStruct)."""
    _, metrics = _jitted_step(parts, layout).eval_shape(state, hparams, batch, key)
    # NumPy, so that donating them to the first step leaves them whole for the next epoch.
    return Totals(sums={name: np.zeros((), metric.dtype) for name, metric in metrics.items()},
                  count=np.zeros((), np.int32), first_bad_step=np.full((), -1, np.int32))


def train_epoch(state, totals, hparams, piece, key, start, stop, *, parts, layout=None):
    """The steps ``start`` to ``stop`` of an epoch, or of a piece of it, in one compiled loop.

    The bounds are traced: an epoch may be cut anywhere, for a progress bar or a checkpoint, by the one compiled
    program, and the result does not depend on where. (A scan's length is static: each cut would compile anew.)

    Args:
        state: TrainState; donate it.
        totals: Totals of the epoch's earlier steps; donate it.
        hparams: HParams of this epoch.
        piece: Piece.
        key: the run's key.
        start, stop: int32[], the first row to use and the one to stop before.
        parts: Parts.
        layout: :class:`~morel_jax.sharding.Layout` of the run's devices; None: whatever the arguments have.

    Returns:
        (TrainState, Totals).
    """
    def body(i, carry):
        state, totals = carry
        place = i if piece.rows is None else piece.rows[i]
        batch = Batch(piece.images[place], piece.labels[place], piece.index[i])
        if layout is not None:
            batch = jax.lax.with_sharding_constraint(batch, layout.batch())
        new_state, metrics = _jitted_step(parts, layout)(state, hparams, batch, key)
        new_state = _laid_out(new_state, layout)
        finite = jnp.isfinite(metrics["loss"]) & _all_finite(new_state.params)
        first_bad_step = jnp.where((totals.first_bad_step < 0) & ~finite, state.step, totals.first_bad_step)
        return new_state, Totals(sums=jax.tree.map(jnp.add, totals.sums, metrics), count=totals.count + 1,
                                 first_bad_step=first_bad_step)

    state, totals = jax.lax.fori_loop(start, stop, body, (state, totals))
    # Again: left to itself XLA cuts what should be whole, and the next call would be another program.
    return _laid_out(state, layout), totals


def compiler_options(parts):
    """What XLA must be told to compile a step of ``parts`` as it is meant; None for nothing.

    On a CPU it takes out the barriers around what is to be computed twice (``model.remat``), and then merges the two.
    """
    if getattr(parts.model, "remat", False) and jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return None


def compile_train_epoch(parts, layout=None):
    """:func:`train_epoch` as one jitted function that donates state and totals."""
    return jax.jit(partial(train_epoch, parts=parts, layout=layout), donate_argnums=(0, 1),
                   compiler_options=compiler_options(parts))
