"""BatchNorm with running statistics, taken into the convolutions before it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from morel_jax.models.batch_norm import EPSILON
from morel_jax.models.fusion import fusion_barrier


def fold_batch_norm(model: nn.Module, variables: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Variables with which ``model`` computes the same with fewer operations, for inference alone.

    A convolution's kernel takes the factor of the BatchNorm after it, which then only adds a bias:

        (conv(x, w) - mean) * f + bias = conv(x, w * f) + (bias - mean * f),  f = scale / sqrt(var + epsilon)

    Kernels are cast to the model's compute type. An attack that calls the network many times does this once.

    Args:
        model: classifier. Its attribute ``folds`` names each convolution with the BatchNorm that follows it; of a model
            without one the variables come back as they are.
        variables: ``params`` and ``batch_stats``.

    Returns:
        ``params`` and ``batch_stats`` for ``model.apply(…, train=False)``. Values differ by rounding; where the model
        computes in bfloat16, by that of bfloat16. Differentiable.
    """
    folds = getattr(model, "folds", None)
    if folds is None:
        return dict(variables)
    params, batch_stats = _folded(variables["params"], variables["batch_stats"], folds, model.dtype)
    return {"params": params, "batch_stats": batch_stats}


def _folded(params: Mapping[str, Any], stats: Mapping[str, Any], folds: Mapping[str, str], dtype: Any,
            ) -> tuple[dict[str, Any], dict[str, Any]]:
    params, stats = dict(params), dict(stats)
    for name, layer in params.items():
        if name in stats and "kernel" not in layer and "scale" not in layer:
            params[name], stats[name] = _folded(layer, stats[name], folds, dtype)
    for name, norm in folds.items():
        if name in params and norm in params:
            factor = params[norm]["scale"] * jax.lax.rsqrt(stats[norm]["var"] + EPSILON)
            # Ended here, or each of the loops that make Winograd's 16 kernels would compute it anew.
            kernel = fusion_barrier(params[name]["kernel"] * factor)
            params[name] = {**params[name], "kernel": kernel}
            params[norm] = {"bias": params[norm]["bias"] - stats[norm]["mean"] * factor}
            del stats[norm]
    for name, layer in params.items():
        if "kernel" in layer and jnp.ndim(layer["kernel"]) == 4:
            params[name] = {**layer, "kernel": layer["kernel"].astype(dtype)}
    return params, stats
