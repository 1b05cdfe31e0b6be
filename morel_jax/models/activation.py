"""Activation functions whose derivatives need their results alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``max(x, 0)``, whose derivative at 0 is 0.

    The derivative is read from the result, which the next layer keeps anyway. So what goes in need not be kept, and
    can be fused into the convolution that makes it.
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = relu(*primals)
    # Not y > 0: XLA would read that as x > 0, and keep x for it.
    return y, jnp.where(y == 0, jnp.zeros_like(tangents[0]), tangents[0])
