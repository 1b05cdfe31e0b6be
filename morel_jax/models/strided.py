"""Convolutions whose kernel is a whole number of strides wide, as matrix products over blocks of the image.

The kernel has ``a * s`` by ``b * t`` taps, and the strides are ``s`` and ``t``. Divide the padded image into blocks of
s by t pixels, each block's pixels as its channels (space to depth). Each result then sees a by b whole blocks, at as
many places of the kernel. One product multiplies all blocks with all places of the kernel; its shifted windows are then
summed. (Windows of the blocks would be copied once per place.) The input gradient is the transpose: one product of all
cotangents with all places, summed into blocks. Rounding differs from XLA's convolution in the last digits.
"""
import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from morel_jax.models.fusion import fusion_barrier

# Up to this many values per block, products of single blocks are too thin: a result's blocks are put side by side.
_THIN = 16

Pair = tuple[int, int]
Padding = Sequence[Pair]


def suits(kernel_size: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a convolution is one of these; with strides of 1, copying shifted images costs more than it saves."""
    return max(strides) > 1 and all(size % stride == 0 for size, stride in zip(kernel_size, strides, strict=True))


def forward(x: Array, w: Array, strides: Pair, padding: Padding, precision: Any) -> Array:
    """float[n, h, w, c_in], float[kh, kw, c_in, c_out] -> float[n, h', w', c_out]; as ``convolution.conv``."""
    margins, blocks = _cut(x.shape[1:3], strides, padding)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*margin, 0) for margin in margins), (0, 0, 0)))
    x = x.reshape(x.shape[0], blocks[0], strides[0], blocks[1], strides[1], x.shape[3])
    x = x.transpose(0, 1, 3, 2, 4, 5)
    places = _places(w, strides)
    kernels = [_slice(w, place, strides) for place in places]
    size = [blocks[i] - w.shape[i] // strides[i] + 1 for i in (0, 1)]

    def windows(parts: Sequence[Array]) -> list[Array]:
        return [part[:, i:i + size[0], j:j + size[1]] for part, (i, j) in zip(parts, places, strict=True)]

    if kernels[0].shape[0] <= _THIN:
        x = x.reshape(x.shape[0], *blocks, -1)
        seen = jnp.concatenate(windows([x] * len(places)), axis=3)
        return jnp.tensordot(seen, jnp.concatenate(kernels), axes=1, precision=precision)
    x = fusion_barrier(x).reshape(x.shape[0], *blocks, -1)
    products = jnp.tensordot(x, jnp.concatenate(kernels, axis=1), axes=1, precision=precision)
    return fusion_barrier(sum(windows(jnp.split(products, len(places), axis=3))))


def input_gradient(g: Array, w: Array, strides: Pair, padding: Padding, precision: Any, input_size: Pair) -> Array:
    """Transpose of :func:`forward` in x: float[n, h', w', c_out] -> float[n, *input_size, c_in]."""
    margins, blocks = _cut(input_size, strides, padding)
    places = _places(w, strides)
    kernel = jnp.concatenate([_slice(w, place, strides) for place in places])
    products = jnp.tensordot(fusion_barrier(g), kernel, axes=((3,), (1,)), precision=precision)
    x: Any = 0
    for (i, j), product in zip(places, jnp.split(products, len(places), axis=3), strict=True):
        after = [blocks[axis] - g.shape[1 + axis] - offset for axis, offset in enumerate((i, j))]
        x += jnp.pad(product, ((0, 0), (i, after[0]), (j, after[1]), (0, 0)))
    x = x.reshape(g.shape[0], *blocks, *strides, w.shape[2]).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(g.shape[0], blocks[0] * strides[0], blocks[1] * strides[1], w.shape[2])
    back = ((-low, -high, 0) for low, high in margins)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *back, (0, 0, 0)))


def _cut(size: Sequence[int], strides: Pair, padding: Padding) -> tuple[list[Pair], list[int]]:
    """Zeros to add at each side (negative: rows to omit, which no result sees), and how many blocks that gives."""
    margins, blocks = [], []
    for length, stride, (low, high) in zip(size, strides, padding, strict=True):
        count = (length + low + high) // stride
        blocks.append(count)
        margins.append((low, count * stride - length - low))
    return margins, blocks


def _places(w: Array, strides: Pair) -> list[Pair]:
    return list(itertools.product(range(w.shape[0] // strides[0]), range(w.shape[1] // strides[1])))


def _slice(w: Array, place: Pair, strides: Pair) -> Float[Array, "pixels*c_in c_out"]:
    """The part of the kernel that meets the block at ``place``, as a concatenation, which XLA moves out of a loop."""
    return jnp.concatenate([w[place[0] * strides[0] + i, place[1] * strides[1] + j]
                            for i in range(strides[0]) for j in range(strides[1])])
