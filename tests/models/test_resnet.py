from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from tests.models import quick_jit

TINY = dict(name="resnet8", num_classes=3, stage_sizes=(1, 1), widths=(4, 8))


def images(n=2, size=8, channels=3):
    return np.random.default_rng(0).uniform(size=(n, size, size, channels)).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def abstract_init(model, size=32, channels=3):
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def count(variables):
    return sum(np.prod(p.shape) for p in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(("name", "parameters", "width"), [
    ("resnet8", 78042, 64),
    ("resnet8_half", 78042 + 3 * (16 - 9) * 16, 64),
    ("resnet18", 11173962, 512),
    pytest.param("resnet34", 21282122, 512, marks=pytest.mark.slow),
    pytest.param("resnet50", 23520842, 2048, marks=pytest.mark.slow),
    pytest.param("resnet101", 42512970, 2048, marks=pytest.mark.slow),
    pytest.param("resnet152", 58156618, 2048, marks=pytest.mark.slow),
])
def test_number_of_parameters_is_the_reference_implementation_s(name, parameters, width):
    variables = abstract_init(models.create(name, 10))
    assert count(variables) == parameters
    assert variables["params"]["linear"]["kernel"].shape == (width, 10)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3)])
def test_sizes_of_images_in_use(size, channels):
    model = models.create("resnet8", 10)
    variables = abstract_init(model, size, channels)
    images = jax.ShapeDtypeStruct((5, size, size, channels), jnp.float32)
    outputs = jax.eval_shape(model.apply, variables, images)
    assert outputs.features.shape == (5, 64)
    assert outputs.logits.shape == (5, 10)


def test_a_stem_with_a_stride_halves_the_image():
    image, stages = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32), []
    for name in ("resnet8", "resnet8_half"):
        init = partial(models.create(name, 10).init_with_output, capture_intermediates=True, mutable=True)
        _, variables = jax.eval_shape(init, jax.random.key(0), image)
        stages.append(variables["intermediates"]["layer1_0"]["__call__"][0])
    assert [stage.shape for stage in stages] == [(1, 28, 28, 16), (1, 14, 14, 16)]


@pytest.fixture(scope="module")
def tiny():
    model = models.create(**TINY)
    return model, quick_jit(model.init)(jax.random.key(0), images())


def test_logits_are_the_last_linear_layer_of_the_features(tiny):
    model, variables = tiny
    outputs = quick_jit(model.apply)(variables, images())
    head = variables["params"]["linear"]
    want = outputs.features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(outputs.logits, want, rtol=1e-5, atol=1e-6)


def test_initial_values_are_pytorch_s():
    model = models.create("resnet8", 10)
    params = quick_jit(model.init)(jax.random.key(0), images())["params"]
    assert set(params) == {"conv1", "bn1", "layer1_0", "layer2_0", "layer3_0", "linear"}
    assert set(params["layer1_0"]) == {"conv1", "bn1", "conv2", "bn2"}
    assert set(params["layer2_0"]) == {"conv1", "bn1", "conv2", "bn2", "shortcut_conv", "shortcut_bn"}
    head, kernel = params["linear"], params["layer3_0"]["conv2"]["kernel"]
    for leaf, fan_in in ((kernel, 9 * 64), (head["kernel"], 64), (head["bias"], 64)):
        assert float(jnp.abs(leaf).max()) <= fan_in**-0.5
    np.testing.assert_allclose(kernel.std(), (9 * 64) ** -0.5 / 3**0.5, rtol=0.02)


def test_training_moves_every_running_statistic_and_evaluation_none(tiny):
    model, variables = tiny
    apply = quick_jit(model.apply, static_argnames=("train", "mutable"))
    _, unmoved = apply(variables, images(), mutable=("batch_stats",))
    _, moved = apply(variables, images(), train=True, mutable=("batch_stats",))
    before = jax.tree.leaves(variables["batch_stats"])
    for a, b, c in zip(before, *map(jax.tree.leaves, (unmoved, moved)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0


def test_momentum_zero_stores_the_batch_s_own_statistics(tiny):
    model, variables = tiny
    shifted = variables | {"batch_stats": jax.tree.map(lambda s: s + 5, variables["batch_stats"])}
    apply = quick_jit(model.clone(batch_norm_momentum=0.0).apply, static_argnames=("train", "mutable"))
    stats = [apply(v, images(), train=True, mutable=("batch_stats",))[1] for v in (variables, shifted)]
    jax.tree.map(np.testing.assert_array_equal, *stats)


def test_bfloat16_computes_narrow_and_returns_float32():
    model = models.create(**TINY, dtype="bfloat16")
    variables, wide = (quick_jit(m.init)(jax.random.key(0), images()) for m in (model, models.create(**TINY)))
    jax.tree.map(np.testing.assert_array_equal, variables, wide)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs, stats = quick_jit(lambda v: model.apply(v, images(), train=True, mutable=["batch_stats"]))(variables)
    assert {v.dtype for v in jax.tree.leaves((outputs, stats))} == {jnp.dtype("float32")}
    text = quick_jit(model.apply).lower(variables, images()).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 6
    # Operands are narrow, the sum is float32.
    assert all(line.count("xbf16>") == 2 and line.endswith("xf32>") for line in convolutions)


def test_normalisation_inside_the_model(tiny):
    model, variables = tiny
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    inside = models.create(**TINY, mean=list(mean), std=list(std))
    x = images()
    np.testing.assert_allclose(
        quick_jit(inside.apply)(variables, x).logits,
        quick_jit(model.apply)(variables, ((x - mean) / std).astype(np.float32)).logits, rtol=1e-4, atol=1e-5)


def test_every_transformation_of_a_whole_model(tiny):
    """Forward over reverse agrees with reverse over reverse; gradients of single examples add up."""
    model, variables = tiny
    x, direction = images(), np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)

    def loss(x, params):
        logits = model.apply(variables | {"params": params}, x).logits
        return -jax.nn.log_softmax(logits)[:, 0].sum()

    @quick_jit
    def forward_over_reverse(x):
        return jax.jvp(lambda x: jax.grad(loss)(x, variables["params"]), (x,), (direction,))[1]

    @quick_jit
    def reverse_over_reverse(x):
        return jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x, variables["params"]), direction))(x)

    np.testing.assert_allclose(forward_over_reverse(x), reverse_over_reverse(x), rtol=1e-3, atol=1e-5)

    single = quick_jit(jax.vmap(lambda x: jax.grad(loss, (0, 1))(x[None], variables["params"])))(x)
    whole = quick_jit(jax.grad(loss, (0, 1)))(x, variables["params"])
    np.testing.assert_allclose(single[0][:, 0], whole[0], rtol=1e-3, atol=1e-5)
    summed = jax.tree.map(lambda a: a.sum(0), single[1])
    jax.tree.map(close, summed, whole[1])


def test_population_of_models_is_a_loop_over_them():
    model = models.create(**TINY)
    variables = quick_jit(jax.vmap(model.init, (0, None)))(jax.random.split(jax.random.key(0), 2), images())

    def gradient(variables):
        def loss(params):
            outputs, _ = model.apply(
                variables | {"params": params}, images(), train=True, mutable=["batch_stats"])
            return jnp.sum(outputs.logits**2)
        return jax.grad(loss)(variables["params"])

    population, alone = quick_jit(jax.vmap(gradient))(variables), quick_jit(gradient)
    for i in (0, 1):
        one = alone(jax.tree.map(lambda v, i=i: v[i], variables))
        jax.tree.map(close, jax.tree.map(lambda g, i=i: g[i], population), one)


@pytest.mark.parametrize(("options", "message"), [
    (dict(name="resnet9"), r"resnet8, .*wide_resnet<depth>_<width>; got 'resnet9'"),
    (dict(num_classes=0), "num_classes must be an integer, at least 1 .*; got 0"),
    (dict(dtype="int32"), "dtype must be a floating type; got int32"),
    (dict(batch_norm_momentum=1.5), r"batch_norm_momentum must be in \[0, 1\]; got 1.5"),
    (dict(mean=(0.5,)), r"mean and std go together; got mean=\(0.5,\) and std=None"),
    (dict(mean=(0.5,), std=(0.0,)), r"std must be positive.*std=\(0.0,\)"),
    (dict(mean=(125.3,), std=(63.0,)), r"mean must be in \[0, 1\].*divide.*got mean=\(125.3,\)"),
    (dict(mean=(0.5,), std=(63.0,)), r"at most 1.*got std=\(63.0,\)"),
    (dict(mean=(np.nan,), std=(0.5,)), r"mean must be in \[0, 1\].*got mean=\(nan,\)"),
    (dict(mean=(0.5,), std=(np.nan,)), r"std must be positive.*got std=\(nan,\)"),
    (dict(mean=(0.5, 0.5), std=(0.5,)), "mean and std must have a number for each channel"),
    (dict(num_classes=10**9), "at most 100000; got 1000000000"),
    (dict(num_classes=2.5), "at most 100000; got 2.5"),
])
def test_errors_of_create(options, message):
    with pytest.raises(ValueError, match=message):
        models.create(**dict(name="resnet8", num_classes=10) | options)


@pytest.mark.parametrize(("options", "x", "message"), [
    ({}, images()[0], r"\[n, height, width, channels\]; got float32\[8, 8, 3\]"),
    ({}, np.zeros((2, 8, 8, 3), np.uint8), r"floats in \[0, 1\].*got uint8"),
    (dict(mean=(0.5,), std=(0.5,)), images(), r"each of the 3 channels; got \(0.5,\)"),
])
def test_errors_of_images(options, x, message):
    with pytest.raises(ValueError, match=message):
        models.create(**TINY, **options).init(jax.random.key(0), x)
