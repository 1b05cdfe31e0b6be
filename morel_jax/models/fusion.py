"""A barrier to XLA's fusion of loops on CPU."""
import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array


@jax.custom_jvp
def fusion_barrier(x: Array) -> Array:
    """``x``, any array; on CPU keeps XLA from fusing it with what follows.

    XLA fuses a reshaping that moves nothing into the loop before it, which then runs over the new shape and finds its
    operands by divisions, a few times as slow (docs/performance.md). A call that is not inlined ends the loop; an
    optimisation barrier does not, as XLA's CPU backend drops it before it fuses. If a later XLA inlines the call,
    results stay and only speed is lost. Derivatives are those of ``x``.
    """
    return lax.platform_dependent(x, cpu=_not_inlined, default=lambda x: x)


@fusion_barrier.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return fusion_barrier(*primals), *tangents


def _not_inlined(x: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
        return jax.jit(lambda x: x)(x)
