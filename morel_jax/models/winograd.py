"""3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3): 16 matrix products in place of 36.

A tile of 2x2 results comes from 4x4 values of the image. With the three transformations

    B^T = [1  0 -1  0]     G = [ 1    0    0 ]     A^T = [1  1  1  0]
          [0  1  1  0]         [1/2  1/2  1/2]           [0  1 -1 -1]
          [0 -1  1  0]         [1/2 -1/2  1/2]
          [0  1  0 -1]         [ 0    0    1 ]

applied along both axes, Y = A^T ((G W G^T) * (B^T X B)) A, the product in the middle summed over input channels: for
each of its 16 places one matrix product over all tiles. Its transposes are the two gradients. XLA's CPU backend runs
these products faster than its convolution (benchmarks/results/convolution_cpu.md); rounding differs in the last places.

Reference: Lavin and Gray, "Fast algorithms for convolutional neural networks", arXiv:1509.09308.
"""
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from morel_jax.models.fusion import fusion_barrier

# Measured (docs/performance.md): 64 channels gain; 16 lose, as thin products do not repay the transformations.
_LEAST_CHANNELS = 64

_REVERSED = (3, 1, 2, 0)  # Places of a reversed kernel, along one axis.

Arrays = Sequence[Array]
Padding = Sequence[tuple[int, int]]


def suits(kernel_size: Sequence[int], strides: Sequence[int], c_in: int, c_out: int) -> bool:
    """Whether a convolution can be done this way and gains by it."""
    return tuple(kernel_size) == (3, 3) and tuple(strides) == (1, 1) and min(c_in, c_out) >= _LEAST_CHANNELS


def forward(x: Array, w: Array, padding: Padding) -> Array:
    """float[n, h, w, c_in], float[3, 3, c_in, c_out] -> float[n, h', w', c_out].

    Padding is ((top, bottom), (left, right)).
    """
    size = tuple(x.shape[1 + i] + sum(padding[i]) - 2 for i in (0, 1))
    kernels = _transformed_kernel(w)
    products = [jnp.tensordot(v, u, axes=1) for v, u in zip(_image_tiles(x, padding, size), kernels, strict=True)]
    return _assemble(products, size)


def input_gradient(g: Array, w: Array, padding: Padding, input_size: Sequence[int]) -> Array:
    """Transpose of :func:`forward` in x: float[n, h', w', c_out] -> float[n, *input_size, c_in]."""
    # A convolution with the reversed kernel, whose 16 places are those of the kernel in another order: reversing three
    # taps swaps the first row of G with the last. Contracting c_out swaps the channels.
    places = _transformed_kernel(w)
    kernels = [places[4 * i + j] for i in _REVERSED for j in _REVERSED]
    around = tuple((2 - low, input_size[i] - g.shape[1 + i] + low) for i, (low, _) in enumerate(padding))
    tiles = _image_tiles(g, around, input_size)
    return _assemble([jnp.tensordot(v, u, axes=((3,), (1,))) for v, u in zip(tiles, kernels, strict=True)], input_size)


def kernel_gradient(x: Array, g: Array, padding: Padding) -> Array:
    """Transpose of :func:`forward` in w: float[n, h, w, c_in], float[n, h', w', c_out] -> float[3, 3, c_in, c_out]."""
    size = g.shape[1:3]
    everywhere = ((0, 1, 2), (0, 1, 2))
    products = [jnp.tensordot(fusion_barrier(v), d, axes=everywhere)
                for v, d in zip(_image_tiles(x, padding, size), _result_tiles(fusion_barrier(g)), strict=True)]
    rows = [_g_transposed(products[4 * i:4 * i + 4]) for i in range(4)]
    columns = [_g_transposed([row[j] for row in rows]) for j in range(3)]
    return jnp.stack([jnp.stack([column[i] for column in columns]) for i in range(3)])


def _b(a: Arrays) -> Arrays:
    return a[0] - a[2], a[1] + a[2], a[2] - a[1], a[1] - a[3]


def _g(a: Arrays) -> Arrays:
    half_sum = 0.5 * (a[0] + a[2])
    return a[0], half_sum + 0.5 * a[1], half_sum - 0.5 * a[1], a[2]


def _g_transposed(a: Arrays) -> Arrays:
    half_sum = 0.5 * (a[1] + a[2])
    return a[0] + half_sum, 0.5 * (a[1] - a[2]), half_sum + a[3]


def _a(a: Arrays) -> Arrays:
    return a[0] + a[1] + a[2], a[1] - a[2] - a[3]


def _a_transposed(a: Arrays) -> Arrays:
    return a[0], a[0] + a[1], a[0] - a[1], -a[1]


def _every_other(x: Array, axis: int, start: int, count: int) -> Array:
    return lax.slice_in_dim(x, start, start + 2 * count - 1, 2, axis)


def _tile_counts(size: Sequence[int]) -> tuple[int, ...]:
    return tuple((extent + 1) // 2 for extent in size)


def _image_tiles(x: Array, padding: Padding, size: Sequence[int]) -> list[Float[Array, "n down across c"]]:
    """The 16 places of B^T X B, for results of ``size``."""
    counts = _tile_counts(size)
    pads = [(low, 2 * count + 2 - extent - low, 0)
            for (low, _), count, extent in zip(padding, counts, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    rows = _b([_every_other(x, 1, i, counts[0]) for i in range(4)])
    return [place for row in rows for place in _b([_every_other(row, 2, j, counts[1]) for j in range(4)])]


def _result_tiles(g: Array) -> list[Float[Array, "n down across c"]]:
    """The 16 places of A dY A^T."""
    counts = _tile_counts(g.shape[1:3])
    pads = [(0, 2 * count - extent, 0) for count, extent in zip(counts, g.shape[1:3], strict=True)]
    g = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    rows = _a_transposed([_every_other(g, 1, i, counts[0]) for i in range(2)])
    return [place for row in rows for place in _a_transposed([_every_other(row, 2, j, counts[1]) for j in range(2)])]


def _transformed_kernel(w: Array) -> list[Array]:
    """The 16 places of G W G^T."""
    rows = list(zip(*(_g([w[i, j] for j in range(3)]) for i in range(3)), strict=True))  # 4 columns of 3 taps each.
    places = [_g(column) for column in rows]
    return [places[j][i] for i in range(4) for j in range(4)]


def _assemble(products: Arrays, size: Sequence[int]) -> Array:
    """A^T M A of the 16 places' products, put together and cut to ``size``."""
    rows = list(zip(*(_a([products[4 * i + j] for i in range(4)]) for j in range(4)), strict=True))
    tiles = [jnp.stack(_a(row), axis=3) for row in rows]
    n, down, across, _, c = tiles[0].shape
    return jnp.stack(tiles, axis=2).reshape(n, 2 * down, 2 * across, c)[:, :size[0], :size[1]]
