"""Batch normalisation with PyTorch's semantics."""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes, then scales and shifts it.

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    In training, mean and var are the batch's, var the biased one, and the running statistics move:

        running = momentum * running + (1 - momentum) * batch

    where the running variance takes the **unbiased** batch variance, as in PyTorch (whose ``momentum`` is one minus
    this one). With ``momentum=0.0`` the running statistics become exactly the batch's. A channel of a single value has
    no unbiased variance, which then counts as zero.

    Parameters ``scale`` and ``bias``, collection ``batch_stats`` with ``mean`` and ``var``: float32[channels].
    Statistics and normalisation are computed in float32 at least.

    Attributes:
        use_running_average: normalise with the running statistics and leave them alone.
        momentum: weight of the old running statistics.
        epsilon: added to the variance.
        dtype: of the result.
        axis_name: axis of ``jax.shard_map`` or ``jax.pmap`` along which the batch is split, for statistics over all of
            it; None where the batch is whole, as for GSPMD.

    Reference: Ioffe and Szegedy, arXiv:1502.03167.
    """
    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jax.typing.DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... channels"]) -> Float[Array, "... channels"]:
        """``x`` normalised, of type ``dtype``."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean = self._mean(x)
            # Two passes: E[x^2] - E[x]^2 cancels where the mean is large against the deviation.
            var = self._mean(jnp.square(x - mean))
            if not self.is_initializing():
                count = x.size // channels * (jax.lax.axis_size(self.axis_name) if self.axis_name else 1)
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return ((x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias).astype(self.dtype)

    def _mean(self, x: Float[Array, "... channels"]) -> Float[Array, " channels"]:
        mean = jnp.mean(x, tuple(range(x.ndim - 1)))
        return jax.lax.pmean(mean, self.axis_name) if self.axis_name and not self.is_initializing() else mean
