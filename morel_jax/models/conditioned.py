"""One network for every preference: BatchNorm's scales and biases depend on it, and at one preference it is plain."""
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import PyTree

from morel_jax.models.batch_norm import at_condition


def is_conditioned(model: nn.Module) -> bool:
    """Whether a network of this library takes a preference as an input."""
    return getattr(model, "batch_norm_condition", None) is not None


def fixed(model: nn.Module, variables: Mapping[str, PyTree], preference: float | None = None,
          ) -> tuple[nn.Module, dict[str, Any]]:
    """A conditioned network at one preference, as the plain network of its architecture.

    Args:
        model: a network with a ``batch_norm_condition``.
        variables: its ``params`` and ``batch_stats``.
        preference: weight of the first objective, in [0, 1]; None: the network's own condition, one number.

    Returns:
        (model, variables): the same outputs but for rounding, and nothing left that depends on a preference.
    """
    condition = model.batch_norm_condition if preference is None else preference
    plain = model.clone(batch_norm_condition=None)
    return plain, {**variables, "params": _fixed(variables["params"], condition)}


def _fixed(params: Mapping[str, Any], condition: Any) -> dict[str, Any]:
    if "scale_slope" in params:
        return {name: at_condition(params[name], params[f"{name}_slope"], condition) for name in ("scale", "bias")}
    return {name: _fixed(layer, condition) if isinstance(layer, Mapping) else layer for name, layer in params.items()}
