"""Which numbers a network computes with."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree


class Precision(NamedTuple):
    """Attributes:
        dtype: of activations and of the kernels they meet.
        products: as in ``jax.default_matmul_precision``: how an accelerator forms the products of float32 numbers.
    """
    dtype: DTypeLike
    products: str


# float32 on an accelerator is slower than tf32 by a factor of about seven (the vendor's peaks of an H100).
PRECISIONS: Mapping[str, Precision] = types.MappingProxyType({
    "float32": Precision("float32", "highest"),
    "tf32": Precision("float32", "tensorfloat32"),
    "bfloat16": Precision("bfloat16", "tensorfloat32"),
})


def float32_logits(model: nn.Module, variables: PyTree, images: Float[Array, "n h w c"],
                   products: str = PRECISIONS["float32"].products) -> Float[Array, "n k"]:
    """A classifier's logits with running statistics, in float32 whatever it trains in.

    Args:
        products: as in :class:`Precision`. Full ones by default: a verdict must not depend on the accelerator.
    """
    model = model.clone(dtype="float32") if hasattr(model, "dtype") else model
    with jax.default_matmul_precision(products):
        outputs: Any = model.apply(variables, images)
    return outputs.logits
