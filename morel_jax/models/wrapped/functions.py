"""A network of two functions."""
import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from morel_jax.models.outputs import Images, Outputs
from morel_jax.models.wrapped.network import Variables, WrappedNetwork, outputs_of


@dataclasses.dataclass(frozen=True)
class FunctionNetwork(WrappedNetwork):
    """See :func:`morel_jax.models.from_functions`."""
    init_function: Callable
    apply_function: Callable

    def init(self, key: Array, images: Images) -> dict[str, PyTree]:
        """See :class:`WrappedNetwork`."""
        params, state = self.init_function(key, images)
        return {"params": params, "batch_stats": state}

    def training_pass(self, variables: Variables, images: Images, key: Array) -> tuple[Outputs, PyTree]:
        """See :class:`WrappedNetwork`."""
        features, logits, state = self._call(variables, images, True, key)
        return outputs_of(Outputs(jnp.asarray(features), jnp.asarray(logits)), [], None, []), state

    def apply(self, variables: Variables, images: Images) -> Outputs:
        """See :class:`WrappedNetwork`."""
        features, logits, _ = self._call(variables, images, False, None)
        return outputs_of(Outputs(jnp.asarray(features), jnp.asarray(logits)), [], None, [])

    def _call(self, variables: Variables, images: Images, train: bool, key: Array | None) -> tuple:
        return self.apply_function(variables["params"], variables["batch_stats"], images, train, key)
