"""Linear layer with PyTorch's initial values."""
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key


def uniform_fan_in(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """PyTorch's default for kernels and linear weights: uniform in ±1/sqrt(fan_in); output axis last."""
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)


@jax.custom_jvp
def product(x: Float[Array, "*n inputs"], w: Float[Array, "inputs features"]) -> Float[Array, "*n features"]:
    """``x @ w`` with an input gradient that is fast inside loops.

    XLA's CPU backend transposes ``w`` in every product with its transpose. It moves a concatenation out of a loop, but
    never a transposition alone. So on a CPU the tangent, of which the input gradient is the transpose, uses a
    concatenation.

    Differentiable to any order in forward and reverse mode.
    """
    return x @ w


def _transposed_in_parts(w: Array) -> Array:
    return jnp.concatenate([part.T for part in jnp.array_split(w, 2)], axis=1)


@partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (x, w), (dx, dw) = primals, tangents
    y = product(x, w)
    parts = []  # Only of tangents that are not zero: a product with zeros would be counted, and computed forwards.
    if not isinstance(dx, SymbolicZero):
        turned = jax.lax.platform_dependent(w, cpu=_transposed_in_parts, default=jnp.transpose)
        parts.append(jnp.tensordot(dx, turned, axes=((-1,), (1,))))
    if not isinstance(dw, SymbolicZero):
        parts.append(product(x, dw))
    return y, sum(parts[1:], start=parts[0])


class Linear(nn.Module):
    """Affine map with parameters ``kernel`` [inputs, features] and ``bias``, in float32.

    Attributes:
        features: outputs.
        kernel_init, bias_init: called as ``(key, shape, dtype)``; by default both are PyTorch's, uniform in
            ±1/sqrt(inputs).
    """
    features: int
    kernel_init: nn.initializers.Initializer = uniform_fan_in
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*n inputs"]) -> Float[Array, "*n features"]:
        """float32; float64 of float64."""
        def bias_like_kernel(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike) -> Array:
            bound = x.shape[-1] ** -0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", self.bias_init or bias_like_kernel, (self.features,), jnp.float32)
        return product(x.astype(jnp.promote_types(x.dtype, jnp.float32)), kernel) + bias
