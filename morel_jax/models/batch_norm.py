"""Batch normalisation with PyTorch's semantics."""
import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5  # PyTorch's.

# A number for all examples, or one for each; None: a plain layer.
Condition = float | Float[Array, " n"] | None
_MIDDLE = 0.5  # Of a condition's range.


def not_printed(default: Any) -> Any:
    """An attribute of a module that does not belong to its name: networks recorded before it was there keep theirs."""
    return dataclasses.field(default=default, repr=False)


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes, then scales and shifts it.

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    In training, mean and var are the batch's, var the biased one, and the running statistics move:

        running = momentum * running + (1 - momentum) * batch

    where the running variance takes the **unbiased** batch variance, as in PyTorch (whose ``momentum`` is one minus
    this one). With ``momentum=0.0`` the running statistics become exactly the batch's. A channel of a single value has
    no unbiased variance, which then counts as zero.

    Parameters ``scale`` and ``bias``, collection ``batch_stats`` with ``mean`` and ``var``: float32[channels].
    Statistics and normalisation are computed in float32 at least. Variables from
    :func:`~morel_jax.models.folding.fold_batch_norm` may have ``bias`` alone; it is then added, and nothing else done.

    Attributes:
        use_running_average: normalise with the running statistics and leave them alone.
        momentum: weight of the old running statistics.
        epsilon: added to the variance.
        dtype: of the result.
        axis_name: axis of ``jax.shard_map`` or ``jax.pmap`` along which the batch is split, for statistics over all of
            it; None where the batch is whole, as for GSPMD.
        views: (blocks, kinds): the batch consists of this many equal blocks, and each block has its images of the first
            kind, then those of the second. In training each kind has its own statistics; the collection then holds
            float32[kinds, channels].
        pivot: subtracted before sums and sums of squares are formed in one pass. ``first`` is each kind's first value,
            which suits any mean. ``running`` is the running mean, which devices that share a batch need not exchange;
            the variance is then off by about 1e-7 times the squared distance of the batch's mean from it.
        condition: c in [0, 1], one for all examples or one for each, on which scale and bias depend: they are
            ``scale + (c - 0.5) scale_slope`` and ``bias + (c - 0.5) bias_slope`` (FiLM, Perez et al.,
            arXiv:1709.07871, linear in the condition), with two more parameters float32[channels] that begin at 0.

    Reference: Ioffe and Szegedy, arXiv:1502.03167.
    """
    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = EPSILON
    dtype: jax.typing.DTypeLike = jnp.float32
    axis_name: str | None = None
    views: tuple[int, int] = (1, 1)
    pivot: str = "first"
    condition: Condition = not_printed(None)

    @nn.compact
    def __call__(self, x: Float[Array, "... channels"]) -> Float[Array, "... channels"]:
        """``x`` normalised, of type ``dtype``."""
        channels = x.shape[-1]
        if self.use_running_average and not self.is_initializing() and not self.has_variable("params", "scale"):
            return x + self.get_variable("params", "bias").astype(x.dtype)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        shape = x.shape
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            blocks, kinds = self.views
            if kinds > 1:
                x = x.reshape(blocks, kinds, -1, *shape[1:])
            axes = tuple(axis for axis in range(x.ndim - 1) if axis != 1 or kinds == 1)
            axis_name = None if self.is_initializing() else self.axis_name
            first = self.pivot == "first" and axis_name is None
            pivot = jax.lax.slice(x, (0,) * x.ndim, _ones_at(axes, x.shape)) if first else running_mean.value
            mean, var = _statistics(axes, axis_name, x, pivot)
            if not self.is_initializing():
                count = x.size // mean.size * (jax.lax.axis_size(axis_name) if axis_name else 1)
                for running, batch in ((running_mean, mean), (running_var, var * (count / max(count - 1, 1)))):
                    batch = batch.reshape((kinds, channels) if kinds > 1 else (channels,))
                    running.value = self.momentum * running.value + (1 - self.momentum) * batch
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.condition is None:
            factor = scale * factor
        if x.shape != shape:
            # Statistics for each row in place of a row of statistics: an image that is only reshaped is not copied, but
            # the loops that read it then find their places by divisions, on a CPU (see morel_jax.models.fusion).
            x, mean, factor = x.reshape(shape), self._for_each_row(mean, shape), self._for_each_row(factor, shape)
        normalised = (x - mean) * factor
        if self.condition is None:
            return (normalised + bias).astype(self.dtype)
        slopes = [self.param(f"{name}_slope", nn.initializers.zeros, (channels,), jnp.float32)
                  for name in ("scale", "bias")]
        scale, bias = (at_condition(base, slope, self.condition, len(shape))
                       for base, slope in zip((scale, bias), slopes, strict=True))
        return (normalised * scale + bias).astype(self.dtype)

    def _for_each_row(self, statistic: Float[Array, "1 kinds ..."], shape: tuple[int, ...]) -> Array:
        """Of views: [1, kinds, 1, ..., channels] -> [n, 1, ..., channels], what belongs to the kind of each example."""
        blocks, kinds = self.views
        rows = jnp.broadcast_to(statistic, (blocks, kinds, shape[0] // (blocks * kinds), *statistic.shape[3:]))
        return rows.reshape(shape[0], *statistic.shape[3:])


def batch_norm_of(network: Any, train: bool) -> partial:
    """:class:`BatchNorm` with the attributes that all networks here have for it, ``batch_norm_*`` and ``dtype``."""
    return partial(BatchNorm, not train, network.batch_norm_momentum, dtype=network.dtype,
                   axis_name=network.batch_norm_axis_name, views=network.batch_norm_views,
                   pivot=network.batch_norm_pivot, condition=network.batch_norm_condition)


def at_condition(base: Float[Array, " channels"], slope: Float[Array, " channels"], condition: Any,
                 ndim: int = 1) -> Float[Array, "... channels"]:
    """A layer's scale or bias at a condition: [channels], or [n, 1, ..., channels] of ``ndim`` axes."""
    if jnp.ndim(condition):
        condition = jnp.reshape(condition, (-1, *(1,) * (ndim - 1)))
    return base + (condition - _MIDDLE) * slope


def _ones_at(axes: tuple[int, ...], shape: tuple[int, ...]) -> list[int]:
    return [1 if axis in axes else size for axis, size in enumerate(shape)]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _statistics(axes: tuple[int, ...], axis_name: str | None, x: Float[Array, "..."], pivot: Float[Array, "..."],
                ) -> tuple[Array, Array]:
    """Mean and biased variance over ``axes``, which the results keep with size 1, in one pass over ``x``."""
    from_pivot = x - pivot
    mean, mean_of_squares = _means(axes, axis_name, from_pivot, jnp.square(from_pivot))
    return pivot + mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)


@_statistics.defjvp
def _statistics_jvp(axes: tuple[int, ...], axis_name: str | None, primals: tuple[Array, Array],
                    tangents: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    x, pivot = primals  # The results do not depend on the pivot.
    mean, var = _statistics(axes, axis_name, x, pivot)
    mean_tangent, var_tangent = _means(axes, axis_name, tangents[0], 2 * (x - mean) * tangents[0])
    return (mean, var), (mean_tangent, var_tangent)


def _means(axes: tuple[int, ...], axis_name: str | None, *arrays: Float[Array, "..."]) -> tuple[Array, ...]:
    means = tuple(jnp.mean(array, axes, keepdims=True) for array in arrays)
    return jax.lax.pmean(means, axis_name) if axis_name else means
