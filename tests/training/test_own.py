import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import builders, evaluation, losses, models, training
from morel_jax.training.own import Own, check_model
from tests.small import small_config, small_dataset


def my_trades(views, labels, hparams):
    return losses.trades(views.logits, views.logits_adv, labels, hparams.beta, hparams.label_smoothing)


def my_signs(logits_fn, keys, x, y):
    del keys
    gradient = jax.grad(lambda x: losses.cross_entropy(logits_fn(x), y).sum())(x)
    return jnp.clip(x + 0.1 * jnp.sign(gradient), 0, 1)


class Average(nn.Module):
    """The mean image and a linear layer; no BatchNorm and nothing else that the library's networks have."""
    num_classes: int
    statistics: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        features = images.reshape(len(images), -1)
        if self.statistics:
            features = nn.BatchNorm(not train)(features)
        return models.Outputs(features, nn.Dense(self.num_classes)(features))


def test_own_parts_equal_to_the_configs_give_the_configs_run(tmp_path):
    config = small_config("morel_trades", epochs=1)
    want, _ = training.fit(config, tmp_path / "config", progress=False)
    dataset = builders.dataset(config)
    got, _ = training.fit(config, tmp_path / "own", progress=False, dataset=dataset, model=builders.model(config, 10),
                          loss=my_trades, attack=builders.pgd(config.attack))
    chex.assert_trees_all_equal(jax.device_get(got), jax.device_get(want))


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A run of which everything is its caller's."""
    folder = tmp_path_factory.mktemp("own")
    parts = dict(dataset=small_dataset(), model=Average(10), loss=my_trades, attack=my_signs)
    return folder, parts, training.fit(small_config("trades", epochs=1), folder, progress=False, **parts)


def test_a_run_of_ones_own_parts_learns_and_is_judged(own_run, tmp_path):
    folder, parts, (_, history) = own_run
    logits_fn, _ = evaluation.load(folder, "last", model=parts["model"])
    test = parts["dataset"].test
    right = np.argmax(logits_fn(test.images / np.float32(255)), axis=1) == test.labels
    assert history[0]["clean_accuracy"] == np.mean(right)
    summary = evaluation.evaluate(logits_fn, test.images, test.labels, ["fgsm", ("signs", my_signs)], tmp_path,
                                  epsilon=0.1)
    assert summary["clean"]["correct"] > summary["attacks"]["fgsm"]["correct"]
    assert summary["attacks"]["signs"]["correct"] == summary["attacks"]["fgsm"]["correct"]


def test_a_finished_run_given_again_is_returned(own_run):
    folder, parts, (state, history) = own_run
    again, same = training.fit(small_config("trades", epochs=1), folder, progress=False, **parts)
    chex.assert_trees_all_equal(jax.device_get(again), jax.device_get(state))
    assert same == history


@pytest.mark.parametrize(("changes", "message"), [
    (dict(loss=None), r"own loss: 'my_trades' there, None given"),
    (dict(attack=None), r"own attack: 'my_signs' there, None given"),
    (dict(model=Average(10, True)), r"own model: .*statistics = False.* there, .*statistics = True.* given"),
    (dict(dataset=small_dataset(train=95)), r"own dataset: .*'sha256': "),
])
def test_other_parts_are_refused(own_run, changes, message):
    folder, parts, _ = own_run
    with pytest.raises(ValueError, match="(?s)" + message):
        training.fit(small_config("trades", epochs=1), folder, progress=False, **parts | changes)


def test_own_model_must_be_given_to_load(own_run):
    folder, _, _ = own_run
    with pytest.raises(ValueError, match=r"(?s)model must be the one that the run in .* was given, Average.*got none"):
        evaluation.load(folder)


@pytest.mark.parametrize(("model", "message"), [
    (nn.Dense(10), r"must return morel_jax.models.Outputs\(features, logits\); got ShapeDtypeStruct"),
    (Average(9), r"features \[n, width\] and logits \[n, 10\]; got \(2, 784\) and \(2, 9\)"),
    (Average(10, True), r"must have an attribute batch_norm_momentum .*; Average has none"),
])
def test_models_that_cannot_be_trained(model, message):
    with pytest.raises(ValueError, match=message):
        check_model(model, (28, 28, 1), 10)


def test_what_is_printed_of_parts_has_no_address():
    record = Own(loss=lambda views, labels, hparams: 0, model=Average(10), attack=my_signs).record()
    assert record["loss"].endswith("<lambda>")
    assert record["attack"] == "my_signs"
    assert " at 0x" not in str(record)


@pytest.mark.parametrize(("pair", "message"), [
    (("fgsm", my_signs), r"name of its own; got 'fgsm'"),
    (("transfer-mine", my_signs), r"name of its own; got 'transfer-mine'"),
    (("mine",), r"pairs of a name and an attack; got \('mine',\)"),
])
def test_own_attacks_that_cannot_be_judged(pair, message, tmp_path):
    test = small_dataset().test
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(lambda x: x.reshape(len(x), -1)[:, :10], test.images, test.labels, [pair], tmp_path,
                            epsilon=0.1)
