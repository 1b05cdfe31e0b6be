"""Augmentation on the device: random crop after zero padding, horizontal flip, and CutMix."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, Shaped, UInt8

Images = Shaped[Array, "n h w c"]  # Of any dtype.
Keys = Key[Array, " n"]

_FLOATS = np.arange(256, dtype=np.float32) / np.float32(255)


def crop_and_flip(keys: Keys, images: Images, padding: int = 4, flip: bool = True) -> Images:
    """Random crop of the zero-padded image, at its own size, then a random horizontal flip.

    Args:
        padding: pixels of zeros added on each side before the crop; 0 for no crop.
        flip: mirror each image with probability 1/2.

    Source: random crop with padding 4 and flip, as in the reference implementations of TRADES, MART and MOREL.
    """
    if not padding and not flip:
        return images

    def draw(key: Key[Array, ""]) -> tuple[Array, Array]:
        crop_key, flip_key = jax.random.split(key)
        corner = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1) if padding else jnp.zeros(2, jnp.int32)
        return corner, jax.random.bernoulli(flip_key) if flip else jnp.zeros((), bool)

    corners, mirrored = jax.vmap(draw)(keys)
    cut = partial(_cut_by_slices, padding=padding)
    # Products are exact for numbers that bfloat16 holds.
    by_products = partial(_cut_by_products, padding=padding) if images.dtype == jnp.uint8 else cut
    return jax.lax.platform_dependent(images, corners, mirrored, tpu=by_products, default=cut)


def _cut_by_slices(images: Images, corners: Int32[Array, "n 2"], mirrored: Bool[Array, " n"], padding: int) -> Images:
    def one(image: Shaped[Array, "h w c"], corner: Int32[Array, "2"], is_mirrored: Bool[Array, ""]) -> Array:
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        image = jax.lax.dynamic_slice(padded, (*corner, 0), image.shape)
        return jnp.where(is_mirrored, image[:, ::-1], image)

    return jax.vmap(one)(images, corners, mirrored)


def _cut_by_products(images: Images, corners: Int32[Array, "n 2"], mirrored: Bool[Array, " n"], padding: int) -> Images:
    """:func:`_cut_by_slices` for a TPU, which would slice one image after another."""
    height, width = images.shape[1:3]
    columns = jnp.where(mirrored[:, None], jnp.arange(width)[::-1], jnp.arange(width))

    def chosen(places: Array, start: Array, size: int) -> Float[Array, "n out in"]:
        # A place outside chooses nothing: zero, as the padding is.
        return jax.nn.one_hot(places + start[:, None] - padding, size, dtype=jnp.bfloat16)

    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    rows = product("nyv,nvxc->nyxc", chosen(jnp.arange(height), corners[:, 0], height), images.astype(jnp.bfloat16))
    cut = product("nxu,nyuc->nyxc", chosen(columns, corners[:, 1], width), rows.astype(jnp.bfloat16))
    return cut.astype(images.dtype)


def cutmix(keys: Keys, images: Images, alpha: ArrayLike) -> tuple[Images, Int32[Array, " n"], Float32[Array, " n"]]:
    """Images with a rectangle from another image of the batch, the one half a batch further on.

    Args:
        alpha: of the Beta distribution that the share of an image that stays is drawn from; may be traced. The
            rectangle takes the rest of the area. It has the image's proportions and a random centre, and is clipped at
            the border.

    Returns:
        (mixed, partner, share): images; the image that each rectangle is from; the share of pixels that stayed.

    Source: Yun et al., arXiv:1905.04899.
    """
    count, height, width = images.shape[:3]
    partner = (jnp.arange(count, dtype=jnp.int32) + count // 2) % count

    def one(key: Key[Array, ""], image: Array, other: Array) -> tuple[Array, Float[Array, ""]]:
        share_key, row_key, column_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))

        def inside(key: Key[Array, ""], size: int) -> Bool[Array, " size"]:
            centre, half = jax.random.uniform(key) * size, side * size / 2
            place = jnp.arange(size) + 0.5
            return jnp.abs(place - centre) < half

        cut = inside(row_key, height)[:, None] & inside(column_key, width)
        return jnp.where(cut[..., None], other, image), 1 - jnp.mean(cut, dtype=jnp.float32)

    mixed, share = jax.vmap(one)(keys, images, images[partner])
    return mixed, partner, share


def to_float(images: UInt8[Array | np.ndarray, "..."]) -> Float32[Array, "..."]:
    """From 0 .. 255 to [0, 1], bit for bit NumPy's x / 255 on every device."""
    # A table, because compilers turn a division by a constant into a product that rounds differently.
    return jnp.asarray(_FLOATS)[images]
