import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from morel_jax import builders, evaluation, losses, models, training
from morel_jax.training.custom import CustomParts, check_model
from morel_jax.training.setup import setup
from morel_jax.training.step import Batch, train_step
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


@pytest.mark.slow
def test_own_parts_equal_to_the_configs_give_the_configs_run(tmp_path, monkeypatch):
    config = small_config("morel_trades", epochs=1)
    monkeypatch.setattr(builders, "dataset", lambda config: small_dataset())
    want, _ = training.fit(config, tmp_path / "config", progress=False)
    got, _ = training.fit(config, tmp_path / "own", progress=False, dataset=small_dataset(),
                          model=builders.model(config, 10), loss=my_trades, attack=builders.pgd(config.attack))
    chex.assert_trees_all_equal(jax.device_get(got), jax.device_get(want))


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A run of which everything is its caller's."""
    folder = tmp_path_factory.mktemp("own")
    parts = dict(dataset=small_dataset(), model=Average(10), loss=my_trades, attack=my_signs)
    return folder, parts, training.fit(small_config("trades", epochs=1), folder, progress=False, **parts)


@pytest.mark.slow
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
    (dict(loss=None), r"custom loss: 'my_trades' there, None given"),
    (dict(attack=None), r"custom attack: 'my_signs' there, None given"),
    (dict(model=Average(10, True)), r"custom model: .*statistics = False.* there, .*statistics = True.* given"),
    (dict(dataset=small_dataset(train=95)), r"custom dataset: .*'sha256': "),
])
def test_other_parts_are_refused(own_run, changes, message):
    folder, parts, _ = own_run
    with pytest.raises(ValueError, match="(?s)" + message):
        training.fit(small_config("trades", epochs=1), folder, progress=False, **parts | changes)


def test_own_model_must_be_given_to_load(own_run):
    folder, _, _ = own_run
    with pytest.raises(ValueError, match=r"(?s)model must be the one that the run in .* was given, Average.*got none"):
        evaluation.load(folder)


class Odd(nn.Module):
    """A classifier with one thing that training cannot have."""
    oddity: str

    @nn.compact
    def __call__(self, images, train=False):
        if self.oddity == "no parameters":
            return models.Outputs(images[:, 0, :, 0], images[:, 0, :10, 0])
        features = nn.Dense(4)(images.reshape(len(images), -1))
        if self.oddity == "dropout":
            features = nn.Dropout(0.5, deterministic=not train)(features)
        if self.oddity == "its own error" and train:
            raise KeyError("mine")
        logits = nn.Dense(10)(features)
        if self.oddity == "classes" and train:
            logits = logits[:, :9]
        if self.oddity == "logits alone":
            return logits
        return models.Outputs(features, logits > 0 if self.oddity == "bool" else logits)


class WithoutTrain(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images)


@pytest.mark.parametrize(("model", "message"), [
    (Odd("logits alone"), r"must return morel_jax.models.Outputs\(features, logits\); got ShapeDtypeStruct"),
    (Odd("dropout"), "must not draw random numbers, as a dropout layer does: .* Odd draws some"),
    (Odd("classes"), r"logits \[n, 10\]; got \(2, 4\) and \(2, 9\)"),
    (Odd("bool"), "floating features and logits; got float32 and bool"),
    (Odd("no parameters"), "must have parameters to train"),
    (WithoutTrain(), r"called as model\(images, train=False\), False the default; WithoutTrain takes images"),
    (lambda images: images, "must be a Flax module, or a function of nnx.Rngs .*; <function .* makes none"),
    (Average, r"must be a Flax module \(linen or NNX\), .*; got <class"),
    (Average(9), r"features \[n, width\] and logits \[n, 10\]; got \(2, 784\) and \(2, 9\)"),
    (Average(10, True), r"must have an attribute batch_norm_momentum .*; Average has none"),
])
def test_models_that_cannot_be_trained(model, message):
    with pytest.raises(ValueError, match=message):
        check_model(CustomParts(model=model).model, (28, 28, 1), 10)


def test_a_models_own_error_comes_through():
    with pytest.raises(KeyError, match="mine"):
        check_model(Odd("its own error"), (28, 28, 1), 10)


@pytest.mark.parametrize(("part", "message"), [
    (dict(loss=lambda views, labels, hparams: my_trades(views, labels, hparams).mean()),
     r"loss must return a floating number for each example, float\[16\]; got float32\[\]"),
    (dict(loss=lambda views, labels, hparams: labels), r"loss must return .* float\[16\]; got int32\[16\]"),
    (dict(loss=lambda views, labels, hparams: None), r"loss must return .*; got NoneType"),
    (dict(attack=lambda logits_fn, keys, x, y: x[:, :14]),
     r"attack must return images like .*, float32\[16, 28, 28, 1\]; got float32\[16, 14, 28, 1\]"),
    (dict(attack=lambda logits_fn, keys, x, y: x.astype(jnp.bfloat16)), r"got bfloat16\[16, 28, 28, 1\]"),
    (dict(attack=lambda logits_fn, keys, x, y: (x, y)), "got tuple"),
])
def test_what_parts_return_is_checked_before_anything_compiles(part, message):
    made = setup(small_config("trades"), CustomParts(dataset=small_dataset(), **part))
    with pytest.raises(ValueError, match=message):
        made.no_totals()


@pytest.mark.parametrize(("part", "message"), [
    (dict(dataset=np.zeros((2, 8, 8, 1), np.uint8)), "dataset must be a morel_jax.data.Dataset; got ndarray"),
    (dict(loss="trades"), "loss must be a function, .* got 'trades'"),
    (dict(attack="fgsm"), "attack must be a function, .* got 'fgsm'"),
])
def test_what_is_no_part(part, message):
    with pytest.raises(ValueError, match=message):
        CustomParts(**part)


def test_what_is_printed_of_parts_has_no_address():
    record = CustomParts(loss=lambda views, labels, hparams: 0, model=Average(10), attack=my_signs).record()
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


class Shifted(Average):
    offset: np.ndarray | None = None

    @nn.compact
    def __call__(self, images, train=False):
        return super().__call__(images + self.offset)


def test_a_model_that_holds_an_array_gets_a_state():
    """Such a model has no hash, by which compiled programs are kept."""
    config = small_config("trades")
    made = setup(config, CustomParts(small_dataset(), Shifted(10, offset=np.ones((28, 28, 1), np.float32))))
    with pytest.raises(TypeError, match="unhashable"):
        hash(made.parts)
    key = jax.random.key(0)
    state = made.compile_new_state(key)(key)
    assert jax.tree.leaves(state.params)[-1].shape[-1] == 10


class Normed(nn.Module):
    """A network with several vectors among its parameters, one of them not 0 at first."""

    @nn.compact
    def __call__(self, images, train=False):
        features = nn.LayerNorm()(images[:, ::4, ::4].reshape(len(images), -1))
        return models.Outputs(features, nn.Dense(10)(features))


def how_far(optimizer):
    """({name: norm of an array}, {name: norm of its change}) in a step at the rate 0.01."""
    made = setup(small_config("trades"), CustomParts(small_dataset(), Normed(), optimizer=optimizer))
    key, index = jax.random.key(0), np.arange(16)
    state = made.compile_new_state(key)(key)
    batch = Batch(made.train.images[index], made.train.labels[index], index)
    step = jax.jit(functools.partial(train_step, parts=made.parts))
    stepped, _ = step(state, made.hparams(made.config, 1), batch, key)
    before, after = (flatten_dict(one.params["classifier"], sep="/") for one in (state, stepped))
    return ({name: np.linalg.norm(array) for name, array in before.items()},
            {name: np.linalg.norm(after[name] - array) for name, array in before.items()})


def test_an_optimizer_that_goes_by_the_norms_of_arrays():
    before, moved = how_far(optax.scale_by_trust_ratio())
    for name in ("LayerNorm_0/scale", "Dense_0/kernel"):  # At a ratio of 1 to the array's norm.
        assert moved[name] == pytest.approx(0.01 * before[name], rel=1e-4)


def test_an_optimizer_that_goes_by_the_names_of_arrays():
    def roles(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: "LayerNorm_0" in jax.tree_util.keystr(path), params)

    _, moved = how_far(optax.multi_transform({True: optax.set_to_zero(), False: optax.identity()}, roles))
    assert {name for name, norm in moved.items() if norm == 0} == {"LayerNorm_0/scale", "LayerNorm_0/bias"}
