"""A linen module with the name of its head."""
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax.errors import InvalidRngError
from jaxtyping import Array, Float, PyTree

from morel_jax.models.outputs import Images, Outputs
from morel_jax.models.wrapped.network import DRAWS, Variables, WrappedNetwork, call_mode, mode, outputs_of


@dataclasses.dataclass(frozen=True)
class LinenNetwork(WrappedNetwork):
    """See :func:`morel_jax.models.wrap`."""
    module: nn.Module
    features: str | None

    def init(self, key: Array, images: Images) -> dict[str, PyTree]:
        """See :class:`WrappedNetwork`."""
        told: Any = call_mode(self.module, False)
        variables = nn.meta.unbox(self._told(False).init(key, images, **told))
        return {"params": variables.pop("params", {}), "batch_stats": variables}

    def training_pass(self, variables: Variables, images: Images, key: Array) -> tuple[Outputs, PyTree]:
        """See :class:`WrappedNetwork`."""
        # A stream that is not given takes keys from that of the parameters.
        outputs, moved = self._call(variables, images, True, mutable=list(variables["batch_stats"]),
                                    rngs={"params": key})
        return outputs, dict(moved)

    def apply(self, variables: Variables, images: Images) -> Outputs:
        """See :class:`WrappedNetwork`."""
        outputs, _ = self._call(variables, images, False, mutable=[])
        return outputs

    def _told(self, train: bool) -> nn.Module:
        fields: Any = mode([field.name for field in dataclasses.fields(self.module)], train)
        return self.module.clone(**fields) if fields else self.module

    def _call(self, variables: Variables, images: Images, train: bool, **options: Any) -> tuple[Outputs, Any]:
        seen: list[Float[Array, "n ..."]] = []
        layers: list[str] = []

        def note(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            if context.method_name == "__call__" and context.module.path:
                layers.append(path := ".".join(context.module.path))
                if path == self.features:
                    seen.append((*args, *kwargs.values())[0])
            return call(*args, **kwargs)

        options |= call_mode(self.module, train)
        try:
            with nn.intercept_methods(note):
                result, moved = self._told(train).apply(
                    {"params": variables["params"], **variables["batch_stats"]}, images, **options)
        except InvalidRngError:
            raise ValueError(f"{DRAWS}; {type(self.module).__name__} draws some.") from None
        return outputs_of(result, seen, self.features, layers), moved
