import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from morel_jax.models import convolution
from morel_jax.models.convolution import Conv, conv
from tests.models import quick_jit

CASES = [  # height, width, kernel, strides, padding
    (7, 6, 3, (1, 1), ((1, 1), (1, 1))),
    (7, 6, 3, (2, 2), ((1, 1), (1, 1))),
    (8, 5, 1, (2, 2), ((0, 0), (0, 0))),
    (6, 7, 1, (1, 1), ((0, 0), (0, 0))),
    (8, 9, 4, (2, 1), ((1, 1), (0, 2))),
    (5, 5, 2, (3, 2), ((0, 3), (2, 0))),
    (4, 4, 1, (1, 2), ((1, 2), (0, 1))),
]


def reference(x, w, strides, padding):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(height=7, width=6, kernel=3, groups=()):
    rng = np.random.default_rng(0)  # Not jax.random, which would compile for every shape.
    return (rng.normal(size=(*groups, 2, height, width, 3)).astype(np.float32),
            rng.normal(size=(*groups, kernel, kernel, 3, 4)).astype(np.float32))


def agree(transform, *args, strides=(2, 1), padding=((1, 1), (1, 0)), rtol=1e-5):
    """`transform` of a scalar function of (x, w) gives the same for our convolution and for JAX's."""
    def both(*args):
        return [transform(lambda x, w, f=f: jnp.sin(f(x, w, strides, padding)).sum())(*args)
                for f in (conv, reference)]

    got, want = quick_jit(both)(*args)
    for a, b in zip(*map(jax.tree.leaves, jax.device_get((got, want))), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (np.abs(b).max() + 1e-3))


def gradients(f):
    return jax.grad(f, (0, 1))


def value_and_gradients(f):
    return jax.value_and_grad(f, (0, 1))


@pytest.mark.parametrize(("height", "width", "kernel", "strides", "padding"), CASES)
def test_value_and_gradients_are_those_of_jax(height, width, kernel, strides, padding):
    x, w = operands(height, width, kernel)
    agree(value_and_gradients, x, w, strides=strides, padding=padding)


@pytest.mark.parametrize(("height", "width", "kernel", "strides", "padding"), CASES[:3])
def test_second_derivatives_are_those_of_jax(height, width, kernel, strides, padding):
    x, w = operands(height, width, kernel)

    def forward_over_reverse(f):
        return lambda x, w: jax.jvp(gradients(f), (x, w), (jnp.cos(x), jnp.cos(w)))

    def reverse_over_reverse(f):
        return gradients(lambda x, w: sum(jnp.sum(g**2) for g in gradients(f)(x, w)))

    agree(forward_over_reverse, x, w, strides=strides, padding=padding)
    agree(reverse_over_reverse, x, w, strides=strides, padding=padding)


def test_hessian_linearize_and_checkpoint_are_those_of_jax():
    x, w = operands(4, 4)
    agree(lambda f: jax.hessian(f, (0, 1)), x[:1], w)
    agree(lambda f: lambda x, w: jax.linearize(gradients(f), x, w)[1](x, w), x, w)
    agree(lambda f: gradients(jax.checkpoint(f)), x, w)
    agree(lambda f: lambda x, w: jax.vjp(gradients(f), x, w)[1]((x, w)), x, w)


BATCHINGS = {"images": (0, None), "kernels": (None, 0), "both": (0, 0), "both, other axes": (1, 3)}


@pytest.mark.parametrize("axes", BATCHINGS.values(), ids=BATCHINGS)
def test_vmap_of_gradients_is_that_of_jax(axes):
    x, w = (np.moveaxis(a, 0, i) if i is not None else a[0]
            for a, i in zip(operands(groups=(3,)), axes, strict=True))
    agree(lambda f: jax.vmap(f, axes), x, w)
    agree(lambda f: jax.vmap(gradients(f), axes), x, w)
    agree(lambda f: gradients(lambda x, w: jnp.sum(jax.vmap(f, axes)(x, w) ** 2)), x, w)


AXES = [(0, None), (None, 0), (0, 0)]


@pytest.mark.parametrize("outer", AXES)
@pytest.mark.parametrize("inner", AXES)
def test_nested_vmap_of_gradients_is_that_of_jax(outer, inner):
    x, w = (a[(slice(None) if o == 0 else 0, slice(None) if i == 0 else 0)]
            for a, o, i in zip(operands(4, 4, groups=(2, 3)), outer, inner, strict=True))
    agree(lambda f: jax.vmap(jax.vmap(gradients(f), inner), outer), x, w)


def test_derivatives_of_vmap_with_both_batched():
    x, w = operands(4, 4, groups=(3,))
    agree(lambda f: jax.vmap(lambda x, w: jax.jvp(gradients(f), (x, w), (w.sum() * x, w))), x, w)
    agree(lambda f: gradients(lambda x, w: sum(
        jnp.sum(g**2) for g in jax.vmap(gradients(f))(x, w))), x, w)


def test_gradients_inside_loops_are_those_outside():
    x, w = operands()
    padding = ((1, 1), (1, 1))

    def descend(w):
        return w - 0.01 * jax.grad(lambda w: jnp.sin(conv(x, w, (1, 1), padding)).sum())(w)

    want = descend(descend(descend(w)))
    scanned, _ = quick_jit(lambda w: lax.scan(lambda w, _: (descend(w), None), w, length=3))(w)
    _, looped = quick_jit(lambda w: lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, descend(s[1])), (0, w)))(w)
    np.testing.assert_allclose(scanned, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(looped, want, rtol=1e-5, atol=1e-6)


def test_without_jit():
    x, w = operands()
    with jax.disable_jit():
        got = jax.grad(lambda w: conv(x, w).sum())(w)
    np.testing.assert_allclose(got, jax.grad(lambda w: conv(x, w).sum())(w), rtol=1e-5)


def layouts_of_gradients_in_scan(platform, groups=()):
    """Dimension numbers of every convolution, in StableHLO's notation without spaces."""
    gradient = jax.grad(lambda x, w: jnp.sin(conv(x, w, (2, 2), ((1, 1), (1, 1)))).sum(), (0, 1))
    for _ in groups:
        gradient = jax.vmap(gradient)

    def loop(x, w):
        return lax.scan(lambda carry, _: (gradient(*carry), None), (x, w), length=2)

    lowered = quick_jit(loop).trace(*operands(groups=groups)).lower(lowering_platforms=(platform,))
    return re.findall(r"dim_numbers = (\S+),window", lowered.as_text().replace(", ", ","))


CANONICAL = "[b,0,1,f]x[0,1,i,o]->[b,0,1,f]"


@pytest.mark.parametrize("groups", [(), (3,)], ids=["one", "population"])
def test_on_cpu_gradients_keep_the_fast_layout(groups):
    # Forward and input gradient; the kernel gradient is a matrix product.
    assert layouts_of_gradients_in_scan("cpu", groups) == [CANONICAL] * 2


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_gradients_are_lowered_as_jax_does(platform):
    assert layouts_of_gradients_in_scan(platform) == [
        CANONICAL, "[f,0,1,b]x[i,0,1,o]->[0,1,b,f]", "[b,0,1,f]x[0,1,o,i]->[b,0,1,f]"]


def test_both_lowerings_give_the_same_numbers():
    # Which one runs depends on the platform, so here each is called by hand.
    def difference(x, w, strides, padding):
        y = jnp.sin(reference(x, w, strides, padding))
        given = dict(strides=strides, padding=padding, precision=None)
        size, taps = dict(input_size=x.shape[1:3]), dict(kernel_size=w.shape[:2])
        own = (convolution._input_gradient(y, w, **given, **size),
               convolution._kernel_gradient(x, y, **given, **taps))
        fast = (convolution._cpu_input_gradient(y, w, **given, **size),
                convolution._cpu_kernel_gradient(x, y, **given, **taps))
        return [jnp.abs(a - b).max() for a, b in zip(own, fast, strict=True)]

    def differences():
        return [difference(*operands(*case[:3]), *case[3:]) for case in CASES]

    assert np.max(quick_jit(differences)()) < 1e-4


def test_precision_is_the_one_in_force_while_tracing():
    x, w = operands()
    with jax.default_matmul_precision("highest"):
        traced = quick_jit(lambda x, w: jax.grad(lambda w: conv(x, w).sum())(w)).trace(x, w)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "HIGHEST" in text
    assert "DEFAULT" not in text


def test_bfloat16_is_accumulated_in_float32():
    @quick_jit
    def value_and_gradients(x, w):
        y, transpose = jax.vjp(conv, x, w)
        return y, *transpose(jnp.ones_like(y))

    narrow = [jnp.asarray(a, jnp.bfloat16) for a in operands()]
    got = value_and_gradients(*narrow)
    want = value_and_gradients(*(a.astype(jnp.float32) for a in narrow))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))


def test_shard_map_sums_the_gradient_of_a_replicated_kernel():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    x, w = operands()

    def loss(x, w):
        total = jax.shard_map(lambda x, w: lax.psum(jnp.sin(conv(x, w)).sum(), "data"),
                              mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
        return total(x, w)

    want = jax.grad(lambda x, w: jnp.sin(conv(x, w)).sum(), (0, 1))(x, w)
    for a, b in zip(quick_jit(jax.grad(loss, (0, 1)))(x, w), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    (lambda x, w: conv(x, w[:, :, :2]), r"channels.*\(2, 7, 6, 3\) and kernel \(3, 3, 2, 4\)"),
    (lambda x, w: conv(x[0], w), r"four axes; got shapes \(7, 6, 3\)"),
    (lambda x, w: conv(x, w.astype(np.float16)), "one floating dtype; got float32 and float16"),
    (lambda x, w: conv(x.astype(int), w.astype(int)), "one floating dtype; got int32"),
    (lambda x, w: conv(x[:, :2], w), "larger than the padded image"),
    (lambda x, w: conv(x, w, (0, 1)), r"positive integers; got \(0, 1\)"),
    (lambda x, w: conv(x, w, padding=((1, 1),)), r"padding must be .* got \(\(1, 1\),\)"),
])
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        change(*operands())


def test_layer():
    x, _ = operands()
    layer = Conv(5, (3, 3), (2, 2), ((1, 1), (1, 1)), use_bias=True, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    shapes = jax.tree.map(lambda p: (p.shape, p.dtype), variables["params"])
    assert shapes == {"kernel": ((3, 3, 3, 5), jnp.float32), "bias": ((5,), jnp.float32)}
    assert float(jnp.abs(variables["params"]["kernel"]).max()) <= 27**-0.5
    assert layer.apply(variables, x).dtype == jnp.bfloat16
    one = {"params": {"kernel": jnp.zeros((3, 3, 3, 5)), "bias": jnp.arange(5.0)}}
    np.testing.assert_array_equal(layer.apply(one, x)[1, 2, 1], jnp.arange(5.0))
    assert set(Conv(5).init(jax.random.key(0), x)["params"]) == {"kernel"}
