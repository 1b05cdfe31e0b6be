"""A convolution whose derivatives of every order stay fast inside loops on CPU.

In the body of a loop, XLA's CPU backend has a fast convolution only for the layout ``NHWC, HWIO -> NHWC``, and JAX's
transposition rules leave that layout: a kernel gradient inside ``lax.scan`` is then about a hundred times slower
(jax-ml/jax#12868). Three primitives, bilinear and closed under transposition, replace ``lax.conv_general_dilated``:

    forward          F(x, w)   x float[n, h, w, c_in], w float[kh, kw, c_in, c_out] -> float[n, h', w', c_out]
    input gradient   DX(g, w)  g shaped like F's result                             -> shaped like x
    kernel gradient  DW(x, g)                                                       -> shaped like w

Transposed, F gives DX and DW, DX gives F and DW, and DW gives DX and F. How each is computed is decided when the
program is lowered, not when it is traced. On CPU it is Winograd's algorithm or a product over blocks of the image
(`morel_jax.models.strided`) where these suit; otherwise an ordinary convolution in the fast layout or, for the kernel
gradient, one matrix product. On every other platform it is JAX's own rules (cuDNN knows its own gradients).

Each primitive also takes operands with one more leading axis, of independent convolutions. ``vmap`` needs it only if
both operands are batched (a population of models, gradients of single examples); if one is, its axis joins the batch or
the channels. On CPU the independent convolutions run one after another.
"""
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from morel_jax.models import strided, winograd
from morel_jax.models.linear import uniform_fan_in

LAYOUT = ("NHWC", "HWIO", "NHWC")

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = Sequence[Pair]


def conv(x: Float[Array, "n h w c_in"], w: Float[Array, "kh kw c_in c_out"], strides: Sequence[int] = (1, 1),
         padding: Padding = ((0, 0), (0, 0)), precision: Any = None) -> Float[Array, "n h_out w_out c_out"]:
    """Two-dimensional cross-correlation, as deep learning calls a convolution.

    Args:
        w: of x's dtype, which is the result's too. Narrow types are accumulated in float32.
        strides: two positive integers.
        padding: ((top, bottom), (left, right)), zeros added on each side; static integers.
        precision: as in ``jax.lax.conv_general_dilated``; None takes ``jax.default_matmul_precision``'s value.

    Returns:
        h_out is (h + top + bottom - kh) // strides[0] + 1, and w_out likewise.

    Raises:
        ValueError: ranks, channels, dtypes, strides or padding do not fit, or the kernel is larger than the
            padded image (found while tracing; free at run time).

    Differentiable to any order in forward and reverse mode, and closed under vmap, jit and loops.
    """
    strides = tuple(int(s) for s in strides)
    padding = tuple((int(low), int(high)) for low, high in padding)
    if precision is None:  # Read now, as JAX's own convolution does: lowering may happen outside the context.
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # Made at run time.
    if len(strides) != 2 or min(strides) < 1:
        raise ValueError(f"conv strides must be two positive integers; got {strides}.")
    if len(padding) != 2:
        raise ValueError(f"conv padding must be ((top, bottom), (left, right)); got {padding}.")
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"conv operands must both have four axes; got shapes {x.shape} and {w.shape}.")
    x, w = _vary_alike(x, w)
    return forward_p.bind(x, w, strides=strides, padding=padding, precision=precision)


def _vary_alike(*operands: Array) -> list[Array]:
    """Inside ``jax.shard_map``, marks operands as varying along every axis that any of them varies along."""
    varying = [jax.typeof(a).manual_axis_type.varying for a in operands]
    union = frozenset().union(*varying)
    return [lax.pcast(a, tuple(sorted(union - own, key=str)), to="varying")
            for a, own in zip(operands, varying, strict=True)]


# Shapes and checks. Operands with groups have one more leading axis.


def _out_size(size: int, taps: int, stride: int, pads: Pair) -> int:
    return (size + sum(pads) - taps) // stride + 1


def _forward_shape(x: Shape, w: Shape, *, strides: Pair, padding: Padding) -> Shape:
    if x[3] != w[2]:
        raise ValueError(f"conv needs x's channels to be the kernel's inputs; got x {x} and kernel {w}.")
    spatial = tuple(_out_size(x[1 + i], w[i], strides[i], padding[i]) for i in (0, 1))
    if min(spatial) < 1:
        raise ValueError(f"conv kernel {w} is larger than the padded image {x} with padding {padding}.")
    return (x[0], *spatial, w[3])


def _input_gradient_shape(g: Shape, w: Shape, *, strides: Pair, padding: Padding, input_size: Pair) -> Shape:
    x = (g[0], *input_size, w[2])
    if _forward_shape(x, w, strides=strides, padding=padding) != g:
        raise ValueError(f"conv input gradient: cotangent {g} does not belong to input {x} and kernel {w}.")
    return x


def _kernel_gradient_shape(x: Shape, g: Shape, *, strides: Pair, padding: Padding, kernel_size: Pair) -> Shape:
    w = (*kernel_size, x[3], g[3])
    if _forward_shape(x, w, strides=strides, padding=padding) != g:
        raise ValueError(f"conv kernel gradient: cotangent {g} does not belong to input {x} and kernel {w}.")
    return w


def _abstract(shape_rule: Callable[..., Shape], a: Any, b: Any, *, precision: Any, **params: Any) -> Any:
    del precision
    if a.dtype != b.dtype or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ValueError(f"conv operands must share one floating dtype; got {a.dtype} and {b.dtype}.")
    groups = a.shape[:-4]
    if groups != b.shape[:-4] or len(groups) > 1:
        raise ValueError(f"conv operands must have the same groups; got shapes {a.shape} and {b.shape}.")
    return a.update(shape=groups + shape_rule(a.shape[-4:], b.shape[-4:], **params), weak_type=False)


# JAX's own forms, for every platform but CPU.


def _forward(x: Array, w: Array, *, strides: Pair, padding: Padding, precision: Any) -> Array:
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=LAYOUT, precision=precision)


def _input_gradient(g: Array, w: Array, *, input_size: Pair, **params: Any) -> Array:
    x = jax.ShapeDtypeStruct((g.shape[0], *input_size, w.shape[2]), g.dtype)
    return jax.linear_transpose(lambda x: _forward(x, w, **params), x)(g)[0]


def _kernel_gradient(x: Array, g: Array, *, kernel_size: Pair, **params: Any) -> Array:
    w = jax.ShapeDtypeStruct((*kernel_size, x.shape[3], g.shape[3]), g.dtype)
    return jax.linear_transpose(lambda w: _forward(x, w, **params), w)(g)[0]


# The same three in the forms that are fast on CPU.


def _cpu_convolution(x: Array, w: Array, strides: Pair, padding: Sequence[Pair], precision: Any,
                     **dilations: Any) -> Array:
    out = lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=LAYOUT, precision=precision,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32), **dilations)
    return out.astype(x.dtype)


def _turned(w: Array) -> Array:
    """The kernel with rows and columns reversed and channels swapped, as a concatenation of its taps.

    XLA moves a concatenation of parameters out of a loop, but never a reversal or a transposition alone, which an
    attack would then repeat in each of its steps.
    """
    w = w.swapaxes(2, 3)
    rows = [jnp.concatenate([w[i:i + 1, j:j + 1] for j in reversed(range(w.shape[1]))], axis=1)
            for i in reversed(range(w.shape[0]))]
    return jnp.concatenate(rows, axis=0)


def _wide(function: Callable[..., Array], a: Array, b: Array, *arguments: Any) -> Array:
    """``function`` in float32 at least, the result in the operands' type."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return function(a.astype(wide), b.astype(wide), *arguments).astype(a.dtype)


def _cpu_forward(x: Array, w: Array, *, strides: Pair, padding: Padding, precision: Any) -> Array:
    if winograd.suits(w.shape[:2], strides, *w.shape[2:]):
        return _wide(winograd.forward, x, w, padding)
    if strided.suits(w.shape[:2], strides):
        return _wide(strided.forward, x, w, strides, padding, precision)
    return _cpu_convolution(x, w, strides, padding, precision)


def _cpu_input_gradient(g: Array, w: Array, *, strides: Pair, padding: Padding, precision: Any,
                        input_size: Pair) -> Array:
    if winograd.suits(w.shape[:2], strides, *w.shape[2:]):
        return _wide(winograd.input_gradient, g, w, padding, input_size)
    if strided.suits(w.shape[:2], strides):
        return _wide(strided.input_gradient, g, w, strides, padding, precision, input_size)
    pads = []
    for i in (0, 1):
        low = w.shape[i] - 1 - padding[i][0]
        dilated = (g.shape[1 + i] - 1) * strides[i] + 1
        # Rows that a stride left over at the end get a gradient of zero, so this is not simply `low` again.
        pads.append((low, input_size[i] + w.shape[i] - 1 - dilated - low))
    return _cpu_convolution(g, _turned(w), (1, 1), pads, precision, lhs_dilation=strides)


def _cpu_kernel_gradient(x: Array, g: Array, *, strides: Pair, padding: Padding, precision: Any,
                         kernel_size: Pair) -> Array:
    if winograd.suits(kernel_size, strides, x.shape[3], g.shape[3]):
        return _wide(winograd.kernel_gradient, x, g, padding)
    # One product of the patches under the kernel with the cotangent; a convolution is slower, especially 1x1.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    reach = [(size - 1) * stride + 1 for size, stride in zip(g.shape[1:3], strides, strict=True)]
    patches = [lax.slice(padded, (0, i, j, 0), (x.shape[0], i + reach[0], j + reach[1], x.shape[3]), (1, *strides, 1))
               for i in range(kernel_size[0]) for j in range(kernel_size[1])]
    out = jnp.tensordot(jnp.concatenate(patches, axis=3), g, axes=((0, 1, 2), (0, 1, 2)), precision=precision,
                        preferred_element_type=wide)
    return out.reshape(*kernel_size, x.shape[3], g.shape[3]).astype(x.dtype)


# Batching: an axis of one operand is folded into the axis given here and unfolded from one of the result's.


def _fold(a: Array, dim: int, axis: int) -> Array:
    a = jnp.moveaxis(a, dim, axis)
    return a.reshape(*a.shape[:axis], a.shape[axis] * a.shape[axis + 1], *a.shape[axis + 2:])


def _unfold(a: Array, axis: int, size: int) -> Array:
    return a.reshape(*a.shape[:axis], size, a.shape[axis] // size, *a.shape[axis + 1:])


def _batch(primitive: Primitive, fold_axes: tuple[Pair, Pair], operands: Any, dims: Any, **params: Any) -> Any:
    operands = list(operands)
    batched = [i for i in (0, 1) if dims[i] is not None]
    size = operands[batched[0]].shape[dims[batched[0]]]
    grouped = operands[batched[0]].ndim == 6
    if len(batched) == 1:
        i, = batched
        axis, out_axis = (axis + grouped for axis in fold_axes[i])
        operands[i] = _fold(operands[i], dims[i], axis)
        return _unfold(primitive.bind(*operands, **params), out_axis, size), out_axis
    if grouped:
        out = primitive.bind(*(_fold(a, d, 0) for a, d in zip(operands, dims, strict=True)), **params)
        return _unfold(out, 0, size), 0
    return primitive.bind(*(jnp.moveaxis(a, d, 0) for a, d in zip(operands, dims, strict=True)), **params), 0


def _over_groups(function: Callable[..., Array], mapper: Callable) -> Callable[..., Array]:
    def lowered(a: Array, b: Array, **params: Any) -> Array:
        one = functools.partial(function, **params)
        return one(a, b) if a.ndim == 4 else mapper(one)(a, b)
    return lowered


def _sequential(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda a, b: lax.map(lambda pair: function(*pair), (a, b))


def _make(name: str, shape_rule: Callable[..., Shape], own: Callable[..., Array], canonical: Callable[..., Array],
          fold_axes: tuple[Pair, Pair]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(functools.partial(_abstract, shape_rule))
    bind = jax.jit(primitive.bind, static_argnames=(
        "strides", "padding", "precision", "input_size", "kernel_size"))

    @primitive.def_impl
    def _(*args: Array, **params: Any) -> Array:
        with jax.disable_jit(False):  # Otherwise the bind inside would come back here forever.
            return bind(*args, **params)

    mlir.register_lowering(primitive, mlir.lower_fun(_over_groups(own, jax.vmap), multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(_over_groups(canonical, _sequential), multiple_results=False),
        platform="cpu")
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive, fold_axes)
    return primitive


# For each operand: which of its axes absorbs a batch axis, and from which of the result's it is split off.
forward_p = _make("conv", _forward_shape, _forward, _cpu_forward, ((0, 0), (3, 3)))
input_gradient_p = _make("conv_input_gradient", _input_gradient_shape, _input_gradient,
                         _cpu_input_gradient, ((0, 0), (2, 3)))
kernel_gradient_p = _make("conv_kernel_gradient", _kernel_gradient_shape, _kernel_gradient,
                          _cpu_kernel_gradient, ((3, 2), (3, 3)))


def _spatial(undefined: Any, offset: int) -> Pair:
    return tuple(undefined.aval.shape[-4 + offset:-2 + offset])


def _shared(params: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in params.items() if k not in ("input_size", "kernel_size")}


ad.defbilinear(
    forward_p,
    lambda ct, x, w, **p: input_gradient_p.bind(ct, w, input_size=_spatial(x, 1), **p),
    lambda ct, x, w, **p: kernel_gradient_p.bind(x, ct, kernel_size=_spatial(w, 0), **p))
ad.defbilinear(
    input_gradient_p,
    lambda ct, g, w, **p: forward_p.bind(ct, w, **_shared(p)),
    lambda ct, g, w, **p: kernel_gradient_p.bind(ct, g, kernel_size=_spatial(w, 0), **_shared(p)))
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, x, g, **p: input_gradient_p.bind(g, ct, input_size=_spatial(x, 1), **_shared(p)),
    lambda ct, x, g, **p: forward_p.bind(x, ct, **_shared(p)))


class Conv(nn.Module):
    """Convolution layer with parameters ``kernel`` (HWIO) and, on demand, ``bias``, both float32.

    Attributes:
        features: output channels.
        kernel_size, strides: two integers each.
        padding: ((top, bottom), (left, right)).
        use_bias: whether to add ``bias``, initially zero.
        dtype: of the computation and of the result.
        kernel_init: called as ``(key, shape, dtype)``; PyTorch's default.
    """
    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    use_bias: bool = False
    dtype: jax.typing.DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = uniform_fan_in

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c_in"]) -> Float[Array, "n h_out w_out features"]:
        """:func:`conv` in ``dtype``."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y
