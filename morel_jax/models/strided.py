"""Convolutions whose kernel is a whole number of strides wide, as matrix products over blocks of the image.

With a kernel of ``a * s`` by ``b * t`` taps and strides ``s``, ``t``, cut the padded image into blocks of s by t
pixels: each result then sees a by b whole blocks, at as many places of the kernel. Multiply all blocks with all places
of the kernel first, then add up what belongs together: the sums are of shifted windows of the products, which XLA's CPU
backend fuses with what comes next, where windows of the blocks would be copied once a place. A block's rows are
multiplied one by one, for a row of a block lies in one piece in memory, and a block does not. The input gradient is the
transpose: one product of all cotangents with all places, added up where they belong. Rounding differs from XLA's
convolution in the last places.
"""
import itertools

import jax.numpy as jnp
from jax import lax

# Up to this many values a block, products of its rows are too thin: the blocks that a result sees are put side by side.
_THIN = 16


def suits(kernel_size, strides):
    """Whether a convolution can be done this way and gains by it."""
    return max(strides) > 1 and all(taps % stride == 0 for taps, stride in zip(kernel_size, strides, strict=True))


def forward(x, w, strides, padding, precision):
    """float[n, h, w, c_in], float[kh, kw, c_in, c_out] -> float[n, h', w', c_out]; as ``convolution.conv``."""
    margins, blocks = _cut(x.shape[1:3], strides, padding)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*margin, 0) for margin in margins), (0, 0, 0)))
    places = _places(w, strides)
    size = [blocks[i] - w.shape[i] // strides[i] + 1 for i in (0, 1)]
    if strides[0] * strides[1] * x.shape[3] <= _THIN:
        x = x.reshape(x.shape[0], blocks[0], strides[0], blocks[1], strides[1], x.shape[3])
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], *blocks, -1)
        seen = jnp.concatenate([x[:, i:i + size[0], j:j + size[1]] for i, j in places], axis=3)
        kernel = jnp.concatenate([_row(w, place, row, strides) for place in places for row in range(strides[0])])
        return jnp.tensordot(seen, kernel, axes=1, precision=precision)
    x = x.reshape(x.shape[0], blocks[0], strides[0], blocks[1], -1)
    products = sum(
        jnp.tensordot(x[:, :, row], jnp.concatenate([_row(w, place, row, strides) for place in places], axis=1), axes=1,
                      precision=precision) for row in range(strides[0]))
    products = jnp.split(products, len(places), axis=3)
    return sum(product[:, i:i + size[0], j:j + size[1]] for (i, j), product in zip(places, products, strict=True))


def input_gradient(g, w, strides, padding, precision, input_size):
    """Transpose of :func:`forward` in x: float[n, h', w', c_out] -> float[n, *input_size, c_in]."""
    margins, blocks = _cut(input_size, strides, padding)
    places = _places(w, strides)
    kernel = jnp.concatenate([_row(w, place, row, strides) for row in range(strides[0]) for place in places])
    products = jnp.tensordot(g, kernel, axes=((3,), (1,)), precision=precision)
    products = iter(jnp.split(products, strides[0] * len(places), axis=3))
    rows = []
    for _ in range(strides[0]):
        row = 0
        for i, j in places:
            after = [blocks[axis] - g.shape[1 + axis] - offset for axis, offset in enumerate((i, j))]
            row += jnp.pad(next(products), ((0, 0), (i, after[0]), (j, after[1]), (0, 0)))
        rows.append(row)
    x = jnp.stack(rows, axis=2).reshape(g.shape[0], blocks[0] * strides[0], blocks[1] * strides[1], w.shape[2])
    back = ((-low, -high, 0) for low, high in margins)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *back, (0, 0, 0)))


def _cut(size, strides, padding):
    """Zeros to add at each side (negative: rows to leave out, which no result sees), and how many blocks that gives."""
    margins, blocks = [], []
    for pixels, stride, (low, high) in zip(size, strides, padding, strict=True):
        count = (pixels + low + high) // stride
        margins.append((low, count * stride - pixels - low))
        blocks.append(count)
    return margins, blocks


def _places(w, strides):
    return list(itertools.product(range(w.shape[0] // strides[0]), range(w.shape[1] // strides[1])))


def _row(w, place, row, strides):
    """What of the kernel meets a row of the block at ``place``: float[pixels * c_in, c_out].

    A concatenation of single taps, because XLA moves that out of a loop, but never a transposition alone.
    """
    taps = w[place[0] * strides[0] + row]
    return jnp.concatenate([taps[place[1] * strides[1] + pixel] for pixel in range(strides[1])])
