"""Inputs and outputs of every classifier."""
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Images = Float[Array, "n height width channels"]  # In [0, 1].
Numbers = tuple[float, ...] | None


class Outputs(NamedTuple):
    """Attributes:
        features: float32, the input of the last linear layer; z = g(x).
        logits: float32; h(z).
    """
    features: Float[Array, "n width"]
    logits: Float[Array, "n num_classes"]


def check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None,
                        channels: int | None = None) -> tuple[Numbers, Numbers]:
    """Mean and std, one number per channel in units of images in [0, 1], as tuples of floats; or both None.

    Raises:
        ValueError: one without the other, other lengths, or numbers of images in 0 .. 255: a mean outside [0, 1], or a
            std outside (0, 1].
    """
    if mean is None and std is None:
        return None, None
    if mean is None or std is None:
        raise ValueError(f"mean and std go together; got mean={mean} and std={std}.")
    mean, std = (tuple(map(float, np.ravel(numbers))) for numbers in (mean, std))
    if not len(mean) == len(std) == (channels or len(mean)) or not mean:
        each = f"each of the {channels} channels" if channels else "each channel"
        raise ValueError(f"mean and std must have a number for {each}; got mean={mean} and std={std}.")
    if not all(0 <= one <= 1 for one in mean):
        raise ValueError("mean must be in [0, 1], as images are (divide numbers for 0 .. 255 by 255); got "
                         f"mean={mean}.")
    if not all(0 < one <= 1 for one in std):
        raise ValueError(f"std must be positive and at most 1, as images are in [0, 1]; got std={std}.")
    return mean, std


def standardise(images: Images, mean: Numbers, std: Numbers, dtype: DTypeLike) -> Images:
    """Casts images to the compute type ``dtype``, normalised by channel if mean and std are given.

    Raises:
        ValueError: images have another rank or an integer type, or other channels than mean and std.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError("images must be floats in [0, 1] of shape [n, height, width, channels]; "
                         f"got {images.dtype}{list(images.shape)}.")
    if mean is not None and std is not None:
        if not len(mean) == len(std) == images.shape[-1]:
            raise ValueError(f"mean and std must have a number for each of the {images.shape[-1]} channels; "
                             f"got {mean} and {std}.")
        images = (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)
    return images.astype(dtype)


def global_average_pool(x: Images) -> Float[Array, "n channels"]:
    """The mean over all pixels, in float32 at least."""
    return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
