"""One training step."""
import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key, PyTree

from morel_jax import losses
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.types import Images, Keys, Labels, Logits
from morel_jax.checks import describe
from morel_jax.data.augment import crop_and_flip, cutmix, to_float
from morel_jax.methods import KINDS, MixedLabels, Views
from morel_jax.models.conditioned import is_conditioned
from morel_jax.models.folding import fold_batch_norm
from morel_jax.models.wrapped import WrappedNetwork
from morel_jax.optimizer import average_kept, perturbed, rate_at
from morel_jax.sharding import Layout
from morel_jax.training.joining import combined_gradients, famo_gradients
from morel_jax.training.packing import descend, moved_in_turn, pack
from morel_jax.training.state import HParams, TrainState

OneKey = Key[Array, ""]

# Purposes of randomness, folded into the step's key.
_AUGMENT, _ATTACK, _CUTMIX, _NETWORK, _PREFERENCE = range(5)


# Images of a batch times devices from which on the devices share the comparison of all rows with all. The comparison
# takes 6e3 FLOPs a pair and the network 3e10 an image (ResNet18): from here on it would be a tenth of a device's work.
_SHARED_FROM = 2**19


@dataclasses.dataclass(frozen=True)
class Parts:
    """What fixes the compiled program of a step.

    Attributes:
        model: classifier; its BatchNorm must have momentum 0, so that a forward pass in training mode returns
            the batch's own statistics. The step moves the running ones. Or a WrappedNetwork, which moves its own.
        embedding: EmbeddingSpace, or None for a method without one.
        objective: (views, labels, hparams) -> (scalar, metrics).
        optimizer: hparams -> optax transformation, without learning rate.
        elementwise: whether that works on each number by itself, so that it may be given many small arrays as one.
        passes: which of ``natural`` and ``adversarial`` images go through the network in the update.
        statistics_from: whose statistics move the running ones, in this order; each in ``passes``.
        attack_batch_norm: ``running`` or ``batch`` statistics in the attack.
        crop_padding, flip: augmentation.
        accumulate: into how many equal parts a batch is cut, see :func:`train_step`.
        cutmix: whether images get rectangles of others, see :func:`~morel_jax.data.augment.cutmix`.
        combine: of ``losses.GRADIENT_METHODS``, where the objective gives several losses; None where it gives one.
        famo_objectives: how many losses the objective gives for FAMO to weigh; 0: none.
        products: how an accelerator forms products of float32 numbers, as in ``jax.default_matmul_precision``.
        cuda_graph: whether a GPU launches the whole program as one graph.
        packed: whether small arrays are joined for the update, see :mod:`morel_jax.training.packing`. It saves an
            accelerator launches; a CPU would only have more to compile.
        awp: whether gradients are taken at adversarially perturbed weights, see :func:`~morel_jax.optimizer.perturbed`.
    """
    model: Any
    embedding: Any
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
    famo_objectives: int = 0
    products: str = "tensorfloat32"
    cuda_graph: bool = False
    elementwise: bool = True
    packed: bool = True

    def on(self, platform: str) -> "Parts":
        """The parts that suit devices of a platform, such as ``cpu``, which need not be at hand."""
        return dataclasses.replace(self, packed=platform != "cpu")


def keep_last(function: Callable) -> Any:
    """Keeps a function's last result for its next call, where all arguments have a hash: a caller's own model may hold
    what has none, such as an array."""
    kept = functools.lru_cache(maxsize=1)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
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


def _attack(state: TrainState, hparams: HParams, x: Images, labels: Labels, keys: Keys, key: OneKey,
            parts: Parts) -> Images:
    """Adversarial images. Only gradients with respect to the images are computed."""
    variables = {"params": state.params["classifier"], "batch_stats": state.batch_stats}
    is_running = parts.attack_batch_norm == "running"
    if is_running and not is_conditioned(parts.model):  # Its kernels would differ from example to example.
        variables = fold_batch_norm(parts.model, variables)

    def logits_fn(images: Images) -> Logits:
        if is_running:
            return parts.model.apply(variables, images).logits
        if isinstance(parts.model, WrappedNetwork):
            return parts.model.training_pass(variables, images, key)[0].logits
        return parts.model.apply(variables, images, train=True, mutable=["batch_stats"])[0].logits

    x_adv = hparams.attack(logits_fn, keys, x, labels)
    if (getattr(x_adv, "shape", None), getattr(x_adv, "dtype", None)) != (x.shape, x.dtype):
        raise ValueError(f"attack must return images like those it is given, {describe(x)}; got {describe(x_adv)}.")
    return x_adv


def _everywhere(tree: Any, layout: Layout | None) -> Any:
    """Arrays whole on every device."""
    return tree if layout is None else jax.lax.with_sharding_constraint(tree, layout.replicated)


def laid_out(state: Any, layout: Layout | None) -> Any:
    """A state, or a tree like one, cut as the layout says."""
    return state if layout is None else jax.lax.with_sharding_constraint(state, layout.state(state))


def _wrapped_passes(params: PyTree, batch_stats: PyTree, images: dict[str, Images], key: OneKey,
                    parts: Parts) -> tuple[Any, PyTree]:
    """A WrappedNetwork's (outputs of each kind of images, statistics after the passes that move them).

    A kind may come again in ``parts.statistics_from``. It is then passed through the network again, with the same key:
    all but its statistics is the same computation, which XLA does once.
    """
    outputs: dict[str, Any] = {}
    for kind in (*parts.statistics_from, *(kind for kind in images if kind not in parts.statistics_from)):
        variables = {"params": params["classifier"], "batch_stats": batch_stats}
        found, moved = parts.model.training_pass(variables, images[kind], jax.random.fold_in(key, KINDS.index(kind)))
        outputs.setdefault(kind, found)
        batch_stats = moved if kind in parts.statistics_from else batch_stats
    return jax.tree.map(lambda *rows: jnp.stack(rows), *(outputs[kind] for kind in images)), batch_stats


def _passes(params: PyTree, batch_stats: PyTree, images: dict[str, Images], parts: Parts,
            layout: Layout | None) -> tuple[Any, dict[str, PyTree]]:
    """(outputs of each kind of images, {kind: the batch's own statistics})."""
    kinds, blocks = list(images), 1 if layout is None else layout.devices

    def apply(x: Images, **options: Any) -> tuple[Any, PyTree]:
        if hasattr(parts.model, "batch_norm_pivot") and blocks > 1:
            options["batch_norm_pivot"] = "running"  # Which every device has.
        outputs, moved = parts.model.clone(**options).apply(
            {"params": params["classifier"], "batch_stats": batch_stats}, x, train=True, mutable=["batch_stats"])
        return outputs, moved.get("batch_stats", {})

    if is_conditioned(parts.model):  # The preferences of a batch, for each kind.
        condition = jnp.concatenate([parts.model.batch_norm_condition.reshape(blocks, -1)] * len(kinds), axis=1)
        parts = dataclasses.replace(parts, model=parts.model.clone(batch_norm_condition=condition.reshape(-1)))
    if len(kinds) > 1 and hasattr(parts.model, "batch_norm_views"):
        # One pass over both: half the launches. In blocks, so that a device of a mesh keeps its own rows.
        x = jnp.stack([images[kind].reshape(blocks, -1, *images[kind].shape[1:]) for kind in kinds], axis=1)
        outputs, moved = apply(x.reshape(-1, *x.shape[3:]), batch_norm_views=(blocks, len(kinds)))
        outputs = jax.tree.map(lambda rows: jnp.moveaxis(rows.reshape(*x.shape[:3], -1), 1, 0).reshape(
            len(kinds), -1, rows.shape[-1]), outputs)
    else:
        passes = [apply(images[kind]) for kind in kinds]
        outputs, moved = jax.tree.map(lambda *leaves: jnp.stack(leaves), *passes)
    return outputs, {kind: jax.tree.map(lambda leaf, view=view: leaf[view], moved) for view, kind in enumerate(kinds)}


def _forward(params: PyTree, batch_stats: PyTree, images: dict[str, Images], labels: Labels, key: OneKey, parts: Parts,
             layout: Layout | None) -> tuple[dict[str, tuple], PyTree]:
    """Of each kind of images in a dict: ({kind: (logits, projected, attended)}, statistics).

    The second is {kind: the batch's own statistics}; of a WrappedNetwork what ``batch_stats`` becomes.
    """
    kinds = list(images)
    if isinstance(parts.model, WrappedNetwork):
        outputs, moved = _wrapped_passes(params, batch_stats, images, key, parts)
    else:
        outputs, moved = _passes(params, batch_stats, images, parts, layout)
    projected = attended = [None] * len(kinds)
    if parts.embedding is not None:
        # Every row meets every other here. In a small batch that is little work beside the network's: each device does
        # all of it, and what is sent is the features, once. Of a large one each device compares its own rows with all.
        features = outputs.features
        if layout is not None:
            shares = len(labels) * layout.devices >= _SHARED_FROM
            features = jax.lax.with_sharding_constraint(features, layout.batch(axis=1) if shares else layout.replicated)
        keys = None
        if parts.embedding.dropout:
            keys = jax.random.split(jax.random.fold_in(key, len(KINDS)), len(kinds))
        projected, attended = jax.vmap(
            lambda rows, key: parts.embedding.apply({"params": params["embedding"]}, rows, labels, key=key))(
                features, keys)
    return {kind: (outputs.logits[view], projected[view], attended[view]) for view, kind in enumerate(kinds)}, moved


def _norm(packed: dict[str, Any], layout: Layout | None) -> Float[Array, ""]:
    """Euclidean norm of all that :func:`~morel_jax.training.packing.pack` gave."""
    # By columns first, where a device has whole arrays: fewer launches than two for each array.
    is_cut = layout is not None and layout.cuts_parameters
    sums = [jnp.sum(jnp.square(array), None if is_cut else range(array.ndim - 1)) for array in packed["arrays"]]
    squares = [*map(jnp.ravel, sums), *map(jnp.square, packed["vectors"].values())]
    return jnp.sqrt(jnp.sum(jax.lax.optimization_barrier(jnp.concatenate(squares))))  # Else XLA sums each by itself.


def _accuracy(logits: Logits, labels: Labels) -> Float[Array, ""]:
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _objective_of(state: TrainState, hparams: HParams, step_key: OneKey, parts: Parts, layout: Layout | None,
                  batch: Batch) -> Callable:
    """The function params -> (value, (metrics, statistics)) of examples that go through the network together.

    They are augmented and attacked once, with the state's parameters. Statistics as in :func:`_forward`.
    """
    # Its own for each part of a batch, whose first index is in no other.
    network_key = jax.random.fold_in(jax.random.fold_in(step_key, _NETWORK), batch.index[0])
    augment_keys = fold_in_each(jax.random.fold_in(step_key, _AUGMENT), batch.index)
    x = to_float(crop_and_flip(augment_keys, batch.images, parts.crop_padding, parts.flip))
    targets = labels = batch.labels if parts.embedding is None else _everywhere(batch.labels, layout)
    if parts.cutmix:
        x, partner, share = cutmix(fold_in_each(jax.random.fold_in(step_key, _CUTMIX), batch.index), x,
                                   hparams.cutmix_alpha)
        targets = MixedLabels(labels, labels[partner], share)
    if is_conditioned(parts.model):
        low, high = hparams.preference_range
        first = low + (high - low) * jax.vmap(jax.random.uniform)(
            fold_in_each(jax.random.fold_in(step_key, _PREFERENCE), batch.index))
        hparams = hparams.replace(preference=jnp.stack([first, 1 - first], axis=1))
        parts = dataclasses.replace(parts, model=parts.model.clone(batch_norm_condition=first))
    images = {"natural": x}
    if "adversarial" in parts.passes:
        attack_keys = fold_in_each(jax.random.fold_in(step_key, _ATTACK), batch.index)
        images["adversarial"] = _attack(state, hparams, x, batch.labels, attack_keys, network_key, parts)

    def objective(params: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        used = {kind: images[kind] for kind in parts.passes}
        outputs, batch_stats = _forward(params, state.batch_stats, used, labels, network_key, parts, layout)
        logits, projected, attended = outputs.get("natural", (None,) * 3)
        logits_adv, projected_adv, attended_adv = outputs.get("adversarial", (None,) * 3)
        value, metrics = parts.objective(
            Views(logits, logits_adv, projected, projected_adv, attended, attended_adv), targets, hparams)
        for kind, (kind_logits, *_) in outputs.items():
            metrics[f"{kind}_accuracy"] = _accuracy(kind_logits, labels)
        return value, (metrics, batch_stats)

    return objective


def _gradients(state: TrainState, hparams: HParams, step_key: OneKey, parts: Parts, layout: Layout | None,
               batch: Batch) -> tuple[PyTree, dict[str, Array], PyTree]:
    """(gradients, metrics, statistics) of examples that go through the network together; see :func:`_objective_of`."""
    objective, params = _objective_of(state, hparams, step_key, parts, layout, batch), state.params
    if parts.combine is not None:
        grads, aux = combined_gradients(objective, params, parts.combine)
        return grads, *aux
    if parts.awp:
        params = perturbed(params, jax.grad(objective, has_aux=True)(params)[0], hparams.awp_gamma)
    grads, aux = jax.grad(objective, has_aux=True)(params)
    return grads, *aux


def _mean_over_parts(function: Callable[[Batch], Any], batch: Batch, count: int) -> Any:
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


def train_step(state: TrainState, hparams: HParams, batch: Batch, key: OneKey, *, parts: Parts,
               layout: Layout | None = None) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
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
    whole = state
    # Not where nothing is cut: a constraint that says nothing still makes XLA round otherwise than for a population.
    is_cut = layout is not None and layout.cuts_parameters
    if is_cut:  # Gathered once for the attack and the update. Left to itself XLA sends activations instead.
        whole = state.replace(params=_everywhere(state.params, layout))
    with jax.default_matmul_precision(parts.products):
        if parts.famo_objectives:
            losses_of = _objective_of(whole, hparams, step_key, parts, layout, batch)
            grads, (metrics, batch_stats), before = famo_gradients(losses_of, whole.params, whole.famo)
        else:
            grads, metrics, batch_stats = _mean_over_parts(
                partial(_gradients, whole, hparams, step_key, parts, layout), batch, parts.accumulate)
    grads = laid_out(grads, layout) if is_cut else grads
    small_grads = pack(grads)
    metrics["gradient_norm"] = _norm(small_grads, layout)
    params, opt_state = descend(parts.optimizer(hparams), rate_at(hparams, state.step), state, grads,
                                small_grads if parts.elementwise and parts.packed else None)
    if not isinstance(parts.model, WrappedNetwork):  # Which has moved its own.
        batch_stats = moved_in_turn(state.batch_stats, [batch_stats[kind] for kind in parts.statistics_from],
                                    hparams.batch_norm_momentum, parts.packed)
    state = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    if parts.famo_objectives:
        with jax.default_matmul_precision(parts.products):  # Of the same images, with one pass more.
            after, _ = losses_of(_everywhere(params, layout) if is_cut else params)
        state = state.replace(famo=losses.famo_update(state.famo, before, after, hparams.famo_learning_rate,
                                                      hparams.famo_weight_decay))
    if state.average is not None:
        latest = {"params": params["classifier"], "batch_stats": state.batch_stats}
        kept = average_kept(hparams, state.step - 1)
        state = state.replace(average=moved_in_turn(state.average, [latest], kept, parts.packed))
    return state, jax.tree.map(lambda metric: metric.astype(jnp.promote_types(metric.dtype, jnp.float32)), metrics)
