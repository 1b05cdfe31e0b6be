"""Runs of networks that were not written for this library, with the caller's optimiser and validation attack."""
import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest

from morel_jax import attacks, evaluation, models, training
from morel_jax.training.interruption import Interrupted
from tests.small import interrupt_after, mostly_slow, tiny_config, tiny_dataset, without_clocks
from tests.training import steps
from tests.training.networks import NNX, Linen
from tests.training.steps import still

CONFIG = tiny_config("morel_mart", embedding__embed_dim=8)
PARTS = dict(dataset=tiny_dataset(), features="head", optimizer=optax.scale_by_adam(),
             validation_attack=attacks.FGSM(0.1))
MODELS = {"linen": Linen(), "nnx": NNX}


@pytest.fixture(scope="module", params=mostly_slow(MODELS, "linen"))
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    parts = PARTS | {"model": MODELS[request.param]}
    return folder, parts, training.fit(CONFIG, folder, progress=False, **parts)


def test_it_is_trained_saved_and_judged(run):
    folder, parts, (state, history) = run
    logits_fn, _ = evaluation.load(folder, "last", model=parts["model"])
    test = parts["dataset"].test
    images = test.images / np.float32(255)
    assert history[-1]["clean_accuracy"] == np.mean(np.argmax(logits_fn(images), -1) == test.labels)
    attacked = parts["validation_attack"](logits_fn, jax.random.key(0), images, test.labels)
    assert history[-1]["robust_accuracy"] == np.mean(np.argmax(logits_fn(attacked), -1) == test.labels)
    assert history[1]["loss"] < history[0]["loss"]
    assert {"mu", "nu"} <= set(state.opt_state._fields)  # Adam's, in place of SGD's.


@pytest.mark.slow
def test_interrupted_and_resumed_it_is_bitwise_the_same(run, monkeypatch, tmp_path):
    _, parts, (state, history) = run
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(Interrupted):
            training.fit(CONFIG, tmp_path, progress=False, **parts)
    resumed, lines = training.fit(CONFIG, tmp_path, progress=False, **parts)
    chex.assert_trees_all_equal(jax.device_get(resumed), jax.device_get(state))
    assert without_clocks(lines) == without_clocks(history)


@pytest.mark.slow
def test_a_member_of_a_population_is_the_run_alone(run, tmp_path):
    _, parts, (state, _) = run
    member, other = training.fit_population(CONFIG, [{"seed": 0}, {"seed": 1}], tmp_path, progress=False, **parts)
    chex.assert_trees_all_close(member.state, jax.device_get(state), atol=1e-5)
    assert np.any(member.state.params["embedding"]["out"]["kernel"] != other.state.params["embedding"]["out"]["kernel"])


def test_other_parts_are_refused(run):
    folder, parts, _ = run
    for changes, message in ((dict(features="hidden"), "custom features: 'head' there, 'hidden' given"),
                             (dict(optimizer=None), "custom optimizer: .* there, None given"),
                             (dict(validation_attack=None), "custom validation_attack: .* there, None given")):
        with pytest.raises(ValueError, match=message):
            training.fit(CONFIG, folder, progress=False, **parts | changes)


def as_functions(model):
    """A network of the library as two functions."""
    def init(key, images):
        variables = model.init(key, images)
        return variables["params"], variables["batch_stats"]

    def apply(params, state, images, train, key):
        (features, logits), moved = model.apply({"params": params, "batch_stats": state}, images, train,
                                                mutable=["batch_stats"] if train else [])
        return features, logits, moved.get("batch_stats", state)

    return models.from_functions(init, apply)


@pytest.mark.parametrize("field", ["batch_norm.momentum", "optimizer.momentum", "optimizer.weight_decay"])
def test_what_is_not_read_is_not_swept(field, tmp_path):
    with pytest.raises(ValueError, match=f"config.{field} must not be swept with a custom"):
        training.fit_population(CONFIG, [{field: 0.1}, {field: 0.2}], tmp_path, model=Linen(), **PARTS)


@pytest.mark.slow
def test_a_network_of_the_library_as_functions_takes_the_same_step():
    """Passes one after another, those that only move statistics too, which are the network's own."""
    config = still("mart", variant="reference")
    parts, hparams, state, batch = steps.setup(config)
    model = models.create("convnet_small", 4)
    wrapped = dataclasses.replace(parts, model=as_functions(model))
    (own, metrics), (other, same) = (steps.compiled(one)(state, hparams, batch, steps.KEY) for one in (parts, wrapped))
    assert config.batch_norm.statistics_from == ("natural", "adversarial") * 2
    chex.assert_trees_all_close(same, metrics, rtol=1e-5)
    chex.assert_trees_all_close(other.params, own.params, atol=1e-6)
    chex.assert_trees_all_close(other.batch_stats, own.batch_stats, atol=1e-6)
