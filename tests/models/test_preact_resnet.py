import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.models.convolution import conv
from tests.models import quick_jit

TINY = dict(num_classes=3, stage_sizes=(1, 1), widths=(4, 8))
IMAGES = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
ONE = ((1, 1), (1, 1))


def abstract_init(name):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(models.create(name, 10).init, jax.random.key(0), images)


@pytest.mark.parametrize(("name", "parameters", "width"), [
    ("preact_resnet18", 11172170, 512),
    pytest.param("preact_resnet34", 21280330, 512, marks=pytest.mark.slow),
    pytest.param("preact_resnet50", 23513162, 2048, marks=pytest.mark.slow),
    pytest.param("preact_resnet18_silu", 12548426, 512, marks=pytest.mark.slow),
    pytest.param("preact_resnet34_silu", 22656586, 512, marks=pytest.mark.slow),
])
def test_number_of_parameters(name, parameters, width):
    """As PyTorch counts those of RobustBench's and kuangliu's classes."""
    variables = abstract_init(name)
    assert sum(np.prod(p.shape) for p in jax.tree.leaves(variables["params"])) == parameters
    assert variables["params"]["linear"]["kernel"].shape == (width, 10)


def made(name, **options):
    model = models.create(name, **TINY, **options)
    return model, quick_jit(model.init)(jax.random.key(0), IMAGES)


def normed(x):
    """An initial BatchNorm with running statistics."""
    return x / (1 + 1e-5) ** 0.5


@pytest.mark.parametrize(("name", "last"), [("preact_resnet18", "conv2"), ("preact_resnet50", "conv3"),
                                            ("preact_resnet18_silu", "conv2")])
def test_a_block_is_the_shortcut_plus_convolutions(name, last):
    """With the last convolutions at zero only stem, shortcuts and the final BatchNorm and activation are left."""
    model, variables = made(name)
    params = variables["params"]
    for block in ("layer1_0", "layer2_0"):
        params[block][last]["kernel"] *= 0
    y = conv(IMAGES, params["conv1"]["kernel"], padding=ONE)
    for block, stride in (("layer1_0", 1), ("layer2_0", 2)):
        if "conv_shortcut" not in params[block]:
            assert block == "layer1_0"
        elif name.endswith("silu"):  # Of the block's input, padded as TensorFlow's SAME.
            y = conv(y, params[block]["conv_shortcut"]["kernel"], (stride,) * 2, ((0, 1), (0, 1)))
        else:
            y = conv(jax.nn.relu(normed(y)), params[block]["conv_shortcut"]["kernel"], (stride,) * 2)
    activation = jax.nn.silu if name.endswith("silu") else jax.nn.relu
    want = activation(normed(y)).mean((1, 2))
    np.testing.assert_allclose(quick_jit(model.apply)(variables, IMAGES).features, want, rtol=1e-4, atol=1e-6)


def test_without_the_last_batch_norm():
    model, variables = made("preact_resnet18", final_norm=False)
    assert set(variables["params"]) == {"conv1", "layer1_0", "layer2_0", "linear"}
    assert float(quick_jit(model.apply)(variables, IMAGES).features.min()) < 0  # No relu either.
