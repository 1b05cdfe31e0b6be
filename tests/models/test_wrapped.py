"""Networks that were not written for this library: linen, NNX, and two functions."""
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from morel_jax import models
from morel_jax.training.custom import CustomParts, check_model

IMAGES = np.random.default_rng(0).random((6, 5, 5, 1)).astype(np.float32)
KEY = jax.random.key(3)


class Linen(nn.Module):
    momentum: float = 0.99
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, training: bool):
        x = nn.relu(nn.BatchNorm(not training, momentum=self.momentum, name="norm")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(nn.Dropout(self.rate, deterministic=not training)(x))


class ByAttribute(nn.Module):
    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Dropout(0.5, deterministic=self.deterministic)(x.reshape(len(x), -1)))


class NNX(nnx.Module):
    def __init__(self, rngs, rate=0.0):
        self.norm = nnx.BatchNorm(25, momentum=0.99, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(25, 25, rngs=rngs), nnx.Linear(25, 3, rngs=rngs)])

    def __call__(self, x):
        x = nnx.relu(self.norm(x.reshape(len(x), -1)))
        for block in self.blocks:
            x = block(self.drop(x))
        return x


def functions():
    """A linear network whose state is the mean image."""
    def init(key, images):
        return {"w": jax.random.normal(key, (images[0].size, 3))}, {"mean": jnp.zeros(images.shape[1:])}

    def apply(params, state, images, train, key):
        mean = 0.5 * state["mean"] + 0.5 * images.mean(0) if train else state["mean"]
        features = (images - mean).reshape(len(images), -1)
        return features, features @ params["w"], {"mean": mean}

    return models.from_functions(init, apply)


NETWORKS = {
    "linen": lambda rate=0.0: models.wrap(Linen(rate=rate), "head"),
    "nnx": lambda rate=0.0: models.wrap(NNX(nnx.Rngs(0), rate), "blocks.1"),
    "nnx from a function": lambda rate=0.0: models.wrap(lambda rngs: NNX(rngs, rate), "blocks.1"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_input_is_the_feature_vector(name):
    network = NETWORKS[name]()
    variables = network.init(KEY, IMAGES)
    head = {"linen": lambda p: (p["head"]["kernel"], p["head"]["bias"])}.get(
        name, lambda p: (p["blocks.1.kernel"], p["blocks.1.bias"]))
    kernel, bias = head(variables["params"])
    for outputs in (network.apply(variables, IMAGES), network.training_pass(variables, IMAGES, KEY)[0]):
        assert outputs.features.shape == (6, 25)
        np.testing.assert_allclose(outputs.features @ kernel + bias, outputs.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_its_own_batch_norm_moves_its_own_statistics(name):
    """By its own momentum, 0.99, from 0 to the batch's mean; and only in training."""
    network = NETWORKS[name]()
    variables = network.init(KEY, IMAGES)
    _, moved = network.training_pass(variables, IMAGES, KEY)
    mean = moved["batch_stats"]["norm"]["mean"] if name == "linen" else moved["norm.mean"]
    np.testing.assert_allclose(mean, 0.01 * IMAGES.reshape(6, -1).mean(0), rtol=1e-4)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, variables["batch_stats"])


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_draws_what_the_key_says_and_nothing_in_evaluation(name):
    network = NETWORKS[name](0.5)
    variables = network.init(KEY, IMAGES)
    first, again, other = (network.training_pass(variables, IMAGES, jax.random.key(seed))[0].features
                           for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == 0) > 0.2
    assert np.any(first != other)
    np.testing.assert_array_equal(network.apply(variables, IMAGES).features, network.apply(variables, IMAGES).features)


def test_a_module_may_be_told_by_its_attribute():
    network = models.wrap(ByAttribute(), "head")
    variables = network.init(KEY, IMAGES)
    assert np.mean(network.training_pass(variables, IMAGES, KEY)[0].features == 0) > 0.3
    np.testing.assert_array_equal(network.apply(variables, IMAGES).features, IMAGES.reshape(6, -1))


def test_two_functions_are_a_network():
    network = functions()
    variables = network.init(KEY, IMAGES)
    outputs, moved = network.training_pass(variables, IMAGES, KEY)
    np.testing.assert_allclose(moved["mean"], 0.5 * IMAGES.mean(0), rtol=1e-6)
    np.testing.assert_allclose(outputs.logits, outputs.features @ variables["params"]["w"], rtol=1e-6)
    np.testing.assert_array_equal(network.apply(variables, IMAGES).features, IMAGES.reshape(6, -1))
    check_model(network, (5, 5, 1), 3)


def test_an_nnx_module_begins_with_its_values_and_a_function_with_the_seeds():
    module = NNX(nnx.Rngs(7))
    as_it_is = models.wrap(module, "blocks.1").init(KEY, IMAGES)["params"]
    np.testing.assert_array_equal(as_it_is["blocks.0.kernel"], module.blocks[0].kernel[...])
    first, second = (NETWORKS["nnx from a function"]().init(jax.random.key(seed), IMAGES)["params"] for seed in (0, 1))
    assert np.any(first["blocks.0.kernel"] != second["blocks.0.kernel"])


def test_equal_networks_share_programs_and_others_do_not():
    module = NNX(nnx.Rngs(0))
    assert models.wrap(module, "blocks.1") == models.wrap(module, "blocks.1")
    assert hash(models.wrap(module, "blocks.1")) == hash(models.wrap(module, "blocks.1"))
    assert models.wrap(module, "blocks.1") != models.wrap(NNX(nnx.Rngs(1)), "blocks.1")  # Begins with other values.
    assert models.wrap(Linen(), "head") == models.wrap(Linen(), "head") != models.wrap(Linen(0.9), "head")


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        head = nn.Dense(3, name="head")
        return head(x.reshape(len(x), -1)) + head(-x.reshape(len(x), -1))


class Counts(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("counts", "steps", lambda: jnp.zeros((), jnp.int32))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


class Draws(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        return nn.Dense(3, name="head")(x + jax.random.normal(self.make_rng("noise"), x.shape))


class NoisyNNX(NNX):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.rngs = rngs

    def __call__(self, x):
        return super().__call__(x + self.rngs.noise.normal(x.shape))


@pytest.mark.parametrize(("model", "features", "message"), [
    (lambda rngs: NoisyNNX(rngs), "blocks.1", r"model must not draw random numbers, .*, when it is told not to train"),
    (Linen(), "tail", r"features must name a layer that the network calls once; got 'tail', which it calls 0 times. "
                      r"Its layers: norm, Dropout_0, head\."),
    (Twice(), "head", r"got 'head', which it calls 2 times"),
    (lambda rngs: NNX(rngs), "head", r"features must name a layer of the network; got 'head'. Its layers: .*blocks\.1"),
    (lambda rngs: NNX(rngs), None, r"must be given with features, the name of the layer"),
    (Linen(), "", r"features must be the name of a layer, such as 'head'; got ''"),
    (Linen(), 3, r"features must be the name of a layer, such as 'head'; got 3"),
    (3, "head", r"model must be a Flax module \(linen or NNX\), .*; got 3"),
    (lambda rngs: 3, "head", r"a function of nnx.Rngs that makes an NNX module; .* makes none"),
    (lambda rngs: rngs + 1, "head", r"a function of nnx.Rngs that makes an NNX module; .* raised TypeError"),
    (Linen, "head", r"model must be a Flax module \(linen or NNX\), .*; got <class"),
    (Counts(), "head", r"model must keep floating numbers alone, .*counts.*steps.* is int32"),
    (Draws(), "head", r"model must not draw random numbers, .*, when it is told not to train"),
    (functions(), "head", r"features must not be given for a wrapped network"),
    (None, "head", r"features must come with a model; got 'head' and none"),
])
def test_what_cannot_be_trained_is_one_clear_error(model, features, message):
    with pytest.raises(ValueError, match=message):
        check_model(CustomParts(model=model, features=features).model, (5, 5, 1), 3)


def test_another_number_of_classes():
    with pytest.raises(ValueError, match=r"logits \[n, 10\]; got \(2, 25\) and \(2, 3\)"):
        check_model(NETWORKS["linen"](), (5, 5, 1), 10)
