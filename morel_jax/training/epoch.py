"""The compiled loop over many steps."""
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, Key, PyTree

from morel_jax.sharding import Layout
from morel_jax.training.packing import pack, pack_optimizer, unpack, unpack_optimizer
from morel_jax.training.state import HParams, TrainState
from morel_jax.training.step import Batch, Parts, keep_last, laid_out, train_step


class Piece(struct.PyTreeNode):
    """The examples of some steps of an epoch.

    Attributes:
        images, labels: uint8[m, h, w, c] (or [m, h * w * c]) and int32[m], the data set; or uint8[k, n, h, w, c] and
            int32[k, n], the examples of each step.
        rows: int32[k, n], where in ``images`` the examples of each step are; None for the second form.
        index: int32[k, n], the same examples' places in the data set.
        image_shape: (h, w, c) of images that are flat.
    """
    images: Any
    labels: Any
    rows: Any
    index: Any
    image_shape: tuple[int, ...] = struct.field(pytree_node=False, default=())


class Totals(struct.PyTreeNode):
    """Sums over the steps of an epoch.

    Attributes:
        sums: dict of float32[], each metric summed over steps.
        count: int32[], steps summed.
        first_bad_step: int32[], the first step whose loss or gradient was not finite, or that began with such
            parameters; or -1.
    """
    sums: Any
    count: Any
    first_bad_step: Any


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


@keep_last
def _jitted_step(parts: Parts, layout: Layout | None) -> jax.stages.Wrapped:
    """Traced once for the shapes of one run: for its metrics, for its loop, and not anew for the next run like it."""
    return jax.jit(partial(train_step, parts=parts, layout=layout))


def empty_totals(state: TrainState, hparams: HParams, batch: Batch, key: Key[Array, ""], *, parts: Parts,
                 layout: Layout | None = None) -> Totals:
    """Totals of no step, with the metrics that `parts` gives; arguments may be shapes (ShapeDtypeStruct)."""
    _, metrics = _jitted_step(parts.on(_platform(layout)), layout).eval_shape(state, hparams, batch, key)
    # NumPy, so that donating them to the first step leaves them whole for the next epoch.
    return Totals(sums={name: np.zeros((), metric.dtype) for name, metric in metrics.items()},
                  count=np.zeros((), np.int32), first_bad_step=np.full((), -1, np.int32))


def train_epoch(state: TrainState, totals: Totals, hparams: HParams, piece: Piece, key: Key[Array, ""],
                start: Int[Array, ""], stop: Int[Array, ""], *, parts: Parts,
                layout: Layout | None = None) -> tuple[TrainState, Totals]:
    """The steps ``start`` to ``stop`` of an epoch, or of a piece of it, in one compiled loop.

    The bounds are traced: an epoch may be cut anywhere, for a progress bar or a checkpoint, by the one compiled
    program, and the result does not depend on where. (A scan's length is static: each cut would compile anew.)

    Args:
        state: donate it.
        totals: of the epoch's earlier steps; donate it.
        hparams: of this epoch.
        piece: the examples.
        key: the run's key.
        start, stop: int32[], the first row to use and the one to stop before.
        parts: of the run.
        layout: of the run's devices; None: whatever the arguments have.
    """
    like = state

    def packed(state: TrainState) -> TrainState:
        if not parts.packed:
            return state
        return state.replace(params=pack(state.params), batch_stats=pack(state.batch_stats),
                             opt_state=pack_optimizer(state.opt_state, state.params), average=pack(state.average))

    def unpacked(state: TrainState) -> TrainState:
        if not parts.packed:
            return state
        return state.replace(params=unpack(state.params, like.params),
                             batch_stats=unpack(state.batch_stats, like.batch_stats),
                             opt_state=unpack_optimizer(state.opt_state, like.opt_state, like.params),
                             average=unpack(state.average, like.average))

    def body(i: Int[Array, ""], carry: tuple[TrainState, Totals]) -> tuple[TrainState, Totals]:
        state, totals = carry
        place = i if piece.rows is None else piece.rows[i]
        images = piece.images[place]
        if piece.image_shape:
            images = images.reshape(-1, *piece.image_shape)
        batch = Batch(images, piece.labels[place], piece.index[i])
        if layout is not None:
            batch = jax.lax.with_sharding_constraint(batch, layout.batch())
        new_state, metrics = _jitted_step(parts, layout)(unpacked(state), hparams, batch, key)
        new_state = packed(laid_out(new_state, layout))
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        first_bad_step = jnp.where((totals.first_bad_step < 0) & ~finite, state.step, totals.first_bad_step)
        return new_state, Totals(sums=jax.tree.map(jnp.add, totals.sums, metrics), count=totals.count + 1,
                                 first_bad_step=first_bad_step)

    state, totals = jax.lax.fori_loop(start, stop, body, (packed(state), totals))
    # Again: left to itself XLA cuts what should be whole, and the next call would be another program.
    state = laid_out(unpacked(state), layout)
    # Parameters that overflowed in the last step: the next one's loss would show it.
    overflowed = (totals.first_bad_step < 0) & ~_all_finite(state.params)
    return state, totals.replace(first_bad_step=jnp.where(overflowed, state.step, totals.first_bad_step))


def _platform(layout: Layout | None) -> str:
    return layout.platform if layout else jax.default_backend()


# All that a CUDA graph can hold; what XLA puts into one by default ends at each convolution and loop.
_GRAPH = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL,CONVOLUTION"


def compiler_options(parts: Parts, platform: str) -> dict[str, Any] | None:
    """What XLA must be told to compile a step of ``parts`` as it is meant.

    Args:
        parts: of the run.
        platform: of the devices that it is compiled for, such as ``cpu``, which need not be those at hand.

    Returns:
        For ``jax.jit``; None: nothing. A CPU's compiler takes out the barriers around what is to be computed twice
        (``model.remat``), and then merges the two, if it is not told otherwise.
    """
    if platform == "cpu" and getattr(parts.model, "remat", False):
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    if platform == "gpu" and parts.cuda_graph:
        return {"xla_gpu_enable_command_buffer": _GRAPH}
    return None


def compile_train_epoch(parts: Parts, layout: Layout | None = None) -> jax.stages.Wrapped:
    """:func:`train_epoch` as one jitted function that donates state and totals."""
    platform = _platform(layout)
    return jax.jit(partial(train_epoch, parts=parts.on(platform), layout=layout), donate_argnums=(0, 1),
                   compiler_options=compiler_options(parts, platform))
