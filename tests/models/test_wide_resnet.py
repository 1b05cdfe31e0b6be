import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from tests.models import quick_jit


def abstract_init(name, size=32):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(models.create(name, 10).init, jax.random.key(0), images)


@pytest.mark.parametrize(("name", "parameters"), [
    ("wide_resnet16_2", 691674),
    pytest.param("wide_resnet28_10", 36479194, marks=pytest.mark.slow),
    pytest.param("wide_resnet34_10", 46160474, marks=pytest.mark.slow),
    pytest.param("wide_resnet70_16", 266796506, marks=pytest.mark.slow),
])
def test_number_of_parameters(name, parameters):
    variables = abstract_init(name)
    assert sum(np.prod(p.shape) for p in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(("size", "width"), [(28, 1), (32, 2), (64, 2)])
def test_sizes_of_images_in_use(size, width):
    model = models.create(f"wide_resnet10_{width}", 10)
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((5, size, size, 3), jnp.float32))
    assert outputs.features.shape == (5, 64 * width)
    assert outputs.logits.shape == (5, 10)
    # The first group projects its input only where it is wider than the stem.
    assert ("conv_shortcut" in variables["params"]["block1_0"]) == (width > 1)
    assert "conv_shortcut" in variables["params"]["block2_0"]


def test_initial_values_are_those_of_the_trades_repository():
    images = jnp.zeros((1, 8, 8, 3))
    params = quick_jit(models.create("wide_resnet10_2", 10).init)(jax.random.key(0), images)["params"]
    for kernel, fan_out in ((params["block3_0"]["conv2"]["kernel"], 9 * 128),
                            (params["block3_0"]["conv_shortcut"]["kernel"], 128)):
        std = (2 / fan_out) ** 0.5
        np.testing.assert_allclose(kernel.std(), std, rtol=0.03)
        np.testing.assert_allclose(kernel.mean(), 0, atol=5 * std / kernel.size**0.5)
        assert float(jnp.abs(kernel).max()) > 3 * std  # A truncated normal would end at 2.3.
    np.testing.assert_array_equal(params["linear"]["bias"], 0)
    assert 0.9 * 128**-0.5 < float(jnp.abs(params["linear"]["kernel"]).max()) <= 128**-0.5
    np.testing.assert_array_equal(params["bn1"]["scale"], 1)


def test_a_block_is_the_shortcut_plus_two_convolutions():
    # With the last convolutions at zero only stem, shortcuts and the final BatchNorm and relu are left.
    from morel_jax.models.convolution import conv
    model = models.create("wide_resnet10_1", 3)
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    variables = quick_jit(model.init)(jax.random.key(0), x)
    params = variables["params"]
    for group in (1, 2, 3):
        params[f"block{group}_0"]["conv2"]["kernel"] *= 0
    y = conv(x, params["conv1"]["kernel"], padding=((1, 1), (1, 1)))
    for group in (2, 3):
        y = jax.nn.relu(y / (1 + 1e-5) ** 0.5)
        y = conv(y, params[f"block{group}_0"]["conv_shortcut"]["kernel"], (2, 2))
    want = jax.nn.relu(y / (1 + 1e-5) ** 0.5).mean((1, 2))
    np.testing.assert_allclose(quick_jit(model.apply)(variables, x).features, want, rtol=1e-4, atol=1e-6)


def test_silu_pads_below_and_right_where_it_strides():
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    model = models.create("wide_resnet10_1_silu", 3)
    variables = quick_jit(model.init)(jax.random.key(0), x)

    def normed(y):
        return jax.nn.silu(y / (1 + 1e-5) ** 0.5)

    def convolved(y, layer, stride=1, pads=((1, 1), (1, 1))):
        return jax.lax.conv_general_dilated(y, layer["kernel"], (stride,) * 2, pads,
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    params = variables["params"]
    y = convolved(x, params["conv1"])
    for group, stride in ((1, 1), (2, 2), (3, 2)):
        block, active = params[f"block{group}_0"], normed(y)
        shortcut = convolved(active, block["conv_shortcut"], stride, ((0, 0), (0, 0))) if group > 1 else y
        y = convolved(active, block["conv1"], stride, ((0, 1), (0, 1)) if stride == 2 else ((1, 1), (1, 1)))
        y = shortcut + convolved(normed(y), block["conv2"])
    np.testing.assert_allclose(quick_jit(model.apply)(variables, x).features, normed(y).mean((1, 2)), rtol=1e-4,
                               atol=1e-6)


@pytest.mark.parametrize(("name", "message"), [
    ("wide_resnet27_10", r"depth must be 6n \+ 4 .*got 27"),
    ("wide_resnet4_10", r"depth must be 6n \+ 4 .*got 4"),
    ("wide_resnet99999999994_10", r"depth must be 6n \+ 4 .*, at most 1000; got 99999999994"),
    ("wide_resnet28_999999999", r"width must be in 1 \.\. 241; got 999999999"),
    ("wide_resnet28_0", r"width must be in 1 \.\. 241; got 0"),
    ("wide_resnet28_10_gelu", "wide_resnet<depth>_<width>_silu or"),
    ("wide_resnet28", "wide_resnet<depth>_<width>; got 'wide_resnet28'"),
])
def test_errors(name, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, 10)
