"""A network as one file of StableHLO, which runs where JAX is and this library is not.

The weights are constants inside. ``jax.export.deserialize(bytearray(content)).call`` runs it.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import export

from morel_jax.attacks.types import LogitsFn

_KNOWN = ("cpu", "cuda", "rocm", "tpu")


def serialise(logits_fn: LogitsFn, image_shape: Sequence[int], platforms: Sequence[str] = ("cpu", "cuda"),
              gradients: bool = False) -> bytearray:
    """A network's bytes, for batches of any size.

    Args:
        image_shape: (h, w, c).
        platforms: where it is to run, of ``cpu``, ``cuda``, ``rocm`` and ``tpu``; this machine need not have them.
        gradients: include what ``jax.grad`` of a function of the logits needs, as attacks do; doubles the size.

    Returns:
        Bytes for ``jax.export.deserialize``; the same for the same network, wherever this library is installed.

    Raises:
        ValueError: image_shape is not three sizes, or there is an unknown platform or none.
    """
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels); got {tuple(image_shape)}.")
    if not platforms or not set(platforms) <= set(_KNOWN):
        raise ValueError(f"platforms must be one or more of {', '.join(_KNOWN)}; got {', '.join(platforms) or 'none'}.")
    batch, = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    # No locations in source files are kept, so the same network gives the same bytes anywhere.
    limit = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]  # Made at run time.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        exported = export.export(jax.jit(lambda images: logits_fn(images)), platforms=platforms)(images)
        return exported.serialize(vjp_order=int(gradients))
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
