import itertools
from functools import partial
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from morel_jax import builders
from morel_jax.configuration import FIELDS, VARIANTS, check, defaults, describe_fields, flatten, nested, recipe
from morel_jax.methods import METHODS
from morel_jax.optimizer import learning_rate
from morel_jax.schema import shown
from morel_jax.training.custom import CustomParts
from morel_jax.training.placement import build_layout
from morel_jax.training.setup import build_hparams, build_parts, setup
from morel_jax.training.state import HParams
from morel_jax.training.step import train_step
from tests.small import small_config
from tests.test_builders import changed, dataset

CONFIGS = sorted(path.stem for path in Path("configs").glob("*.py"))

_DATA_OF = (dict.fromkeys(("cifar10_best", "cifar10_generated"), "cifar10")
            | dict.fromkeys(("quickstart", "small", "smoke"), "fashion_mnist_small"))


def load(name, spec=""):
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    values(["test", f"--config=configs/{name}.py:{spec}" if spec else f"--config=configs/{name}.py"])
    return holder.value


def test_all_configs_are_there():
    assert CONFIGS == ["cifar10", "cifar100", "cifar10_best", "cifar10_generated", "fashion_mnist", "quickstart",
                       "small", "smoke", "tiny_imagenet"]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("method", "variant"), list(itertools.product(METHODS, VARIANTS)))
def test_each_config_is_accepted(name, method, variant):
    config = load(name, f"resnet18,{method},{variant}")
    check(config)
    assert (config.model.name, config.method, config.variant) == ("resnet18", method, variant)
    assert config.data.name == _DATA_OF.get(name, name)


def test_the_recipe_with_generated_images():
    config = load("cifar10_generated")
    check(config)
    assert (config.model.name, config.method, config.epochs) == ("wide_resnet28_10_silu", "trades", 400)
    assert round(config.batch_size * config.data.extra_share) == 358
    assert (config.loss.beta, config.loss.label_smoothing, config.ema_decay) == (5.0, 0.1, 0.995)
    # The rate is highest in epoch 10, after 2.5 % of them.
    rates = [learning_rate(config, epoch, 0, 1) for epoch in range(1, 401)]
    assert np.argmax(rates) == 9
    assert rates[9] == 0.2
    assert rates[-1] < 1e-4


def test_the_papers_surrogate():
    """A ResNet50 trained for 200 epochs on clean images; and one for a CPU with the quickstart's settings."""
    config = load("cifar10", "resnet50,standard")
    assert (config.model.name, config.method, config.epochs) == ("resnet50", "standard", 200)
    assert METHODS[config.method].passes == ("natural",)
    small = load("quickstart", "resnet8,standard")
    assert (small.model.name, small.method, small.epochs) == ("resnet8", "standard", 5)


def test_papers_numbers():
    config = load("cifar10")
    assert (config.batch_size, config.epochs) == (8, 100)
    assert config.morel.preference == (0.1, 0.9)
    assert (config.morel.augmentation, config.morel.contrastive_weight) == (2e-5, 1e-5)
    assert (config.embedding.embed_dim, config.embedding.num_heads) == (128, 2)
    assert (config.attack.epsilon, config.attack.step_size, config.attack.num_steps) == (8 / 255, 2 / 255, 10)
    assert (config.optimizer.momentum, config.optimizer.weight_decay, config.loss.beta) == (0.9, 1e-4, 6.0)


def test_references_readings():
    config = load("cifar10", "resnet18,morel_trades,reference")
    assert (config.attack.epsilon, config.attack.step_size, config.attack.start) == (0.031, 0.007, "normal")
    assert (config.attack.loss, config.validation.step_size) == ("kl", 0.003)
    assert (config.morel.contrastive_rows, config.morel.contrastive_reduction) == ("natural", "mean")
    assert config.batch_norm.statistics_from == ("natural", "adversarial", "natural", "natural", "adversarial")
    np.testing.assert_allclose([learning_rate(config, e) for e in (1, 75, 90)], [1e-2, 1e-4, 1e-6])
    assert load("cifar10", "resnet18,mart,reference").batch_norm.statistics_from == (
        "natural", "adversarial", "natural", "adversarial")


def from_command_line(monkeypatch, *overrides):
    arguments = ["test", "--config=configs/cifar10.py", *overrides]
    monkeypatch.setattr("sys.argv", arguments)  # Where config_flags looks for overrides.
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    values(arguments)
    return holder.value


def test_command_line_overrides(monkeypatch):
    config = from_command_line(monkeypatch, "--config.batch_size=128", "--config.morel.preference=(0.3,0.7)",
                               "--config.optimizer.learning_rate=1")
    check(config)
    assert (config.batch_size, config.morel.preference) == (128, (0.3, 0.7))
    assert learning_rate(config, 75) == 0.1


@pytest.mark.parametrize("override", ["--config.batchsize=1", "--config.batch_size=many"])
def test_command_line_refuses(monkeypatch, override):
    with pytest.raises((AttributeError, flags.IllegalFlagValueError), match=r"batch_?size"):
        from_command_line(monkeypatch, override)


@pytest.mark.parametrize(("change", "message"), [
    (dict(epochs=0), r"config\.epochs must be at least 1; got 0"),
    (dict(batch_size=2.5), r"config\.batch_size must be of type int; got 2\.5"),
    (dict(accumulate=0), r"config\.accumulate must be at least 1; got 0"),
    (dict(accumulate=2), r"config\.accumulate must be 1 for morel_mart, whose contrastive loss and class .*got 2"),
    (dict(accumulate=2, method="loat"), r"config\.accumulate must be 1 for loat, whose means over the images .*got 2"),
    (dict(accumulate=3, method="mart"), r"config\.batch_size must be a multiple of accumulate \(3\); got 8"),
    (dict(model__remat=1), r"config\.model\.remat must be of type bool; got 1"),
    (dict(model__remat=True, model__name="convnet_small"),
     r"config\.model\.remat must be False for convnet_small, which has no residual blocks; got True"),
    (dict(seed=-1), r"config\.seed must be in 0 \.\. 4294967295; got -1"),
    (dict(method="morel"), r"config\.method must be one of .*, trades, .*; got 'morel'"),
    (dict(variant="v2"), r"config\.variant must be one of paper, reference; got 'v2'"),
    (dict(ema_decay=1.0), r"config\.ema_decay must be in \[0, 1\), also when .*; got 1\.0"),
    (dict(data__flip=1), r"config\.data\.flip must be of type bool; got 1"),
    (dict(data__placement="gpu"), r"config\.data\.placement must be one of auto, device, host; got 'gpu'"),
    (dict(model__precision="float16"), r"config\.model\.precision must be one of .*; got 'float16'"),
    (dict(model__mean=(0.5,)), r"config\.model\.std must have as many entries as model\.mean \(1\)"),
    (dict(model__std=("a",)), r"config\.model\.std\[0\] must be a number; got 'a'"),
    (dict(embedding__num_heads=3), r"config\.embedding\.embed_dim must be a multiple of embedding\.num_heads \(3\)"),
    (dict(attack__epsilon=8.0), r"config\.attack\.epsilon must be at least 1e-06, and in linf at most 1, .*; got 8\.0"),
    (dict(attack__epsilon="8/255"), r"config\.attack\.epsilon must be a number; got '8/255'"),
    (dict(attack__start="corner"), r"config\.attack\.start must be one of .*; got 'corner'"),
    (dict(attack__loss="kl", attack__start="clean"), r"config\.attack\.start must be random where the loss is kl"),
    (dict(batch_norm__statistics_from=("clean",)), "statistics_from must name some of natural, adversarial"),
    (dict(batch_norm__statistics_from=(1,)), r"config\.batch_norm\.statistics_from must be a tuple of names"),
    (dict(method="standard"), r"config\.batch_norm\.statistics_from must name some of natural, which standard sends"),
    (dict(morel__preference=(0.1,)), r"config\.morel\.preference must have two entries"),
    (dict(morel__augmentation=0.1), r"config\.morel\.preference\[0\] must be greater than augmentation .*got 0\.1"),
    (dict(morel__augmentation=-1.0), r"config\.morel\.augmentation.*-1\.0"),
    (dict(morel__reference_point=(-1.0, 0.0)), r"config\.morel\.reference_point.*-1\.0"),
    (dict(morel__reference_point=(0.0,)), r"config\.morel\.preference and reference_point must have the same length"),
    (dict(morel__scalarization="weighted_sum", morel__preference=(-0.1, 0.9)),
     r"config\.morel\.preference must be 0 or more"),
    (dict(morel__contrastive_weight=1.0), r"config\.morel\.contrastive_weight must be in \[0, 1\)"),
    (dict(morel__temperature=0.0), r"config\.morel\.temperature must be at least 1e-6, .*got 0\.0"),
    (dict(optimizer__learning_rate=float("nan")), r"config\.optimizer\.learning_rate must be finite, .*3\.4e38"),
    (dict(optimizer__drop_factors=(0.1,)), r"drop_factors must have as many entries as optimizer\.drop_epochs \(2\)"),
    (dict(optimizer__drop_epochs=(90, 75)), r"config\.optimizer\.drop_epochs must rise; got \(90, 75\)"),
    (dict(optimizer__schedule="step"), r"config\.optimizer\.schedule must be one of drops, cosine, .*; got 'step'"),
    (dict(optimizer__warmup_epochs=100), r"config\.optimizer\.warmup_epochs must be less than config\.epochs \(100\)"),
    (dict(swa_first_epoch=101), r"config\.swa_first_epoch must be at most config\.epochs \(100\); got 101"),
    (dict(swa_first_epoch=50, ema_decay=0.9), r"config\.swa_first_epoch must be 0 where config\.ema_decay is not"),
    (dict(loss__label_smoothing=0.1), r"config\.loss\.label_smoothing must be 0 for morel_mart, whose"),
    (dict(data__cutmix=True), r"config\.data\.cutmix must be False but for standard.*method is morel_mart"),
    (dict(data__cutmix=True, method="trades"), r"config\.data\.cutmix must be False .*the attack's loss ce"),
    (dict(data__extra_share=0.5), r"config\.data\.extra_share must be positive where .*; got 0\.5"),
    (dict(data__extra="a.npz", data__extra_share=0.05), r"give a batch of 8 at least one extra and one own .*0\.05"),
    (dict(data__extra="a.npz", data__extra_share=0.95), r"give a batch of 8 at least one extra and one own .*0\.95"),
    (dict(data__extra="a.npz"), r"config\.data\.extra_share must be positive where .*; got 0\.0"),
    (dict(loss__awp=1), r"config\.loss\.awp must be of type bool; got 1"),
    (dict(loss__awp=True, method="mart", accumulate=2), r"config\.accumulate must be 1 with config\.loss\.awp.*got 2"),
    (dict(morel__scalarization="sum"), r"config\.morel\.scalarization must be one of conic, .*mgda, .*'sum'"),
    (dict(morel__scalarization="nash", loss__awp=True), r"config\.loss\.awp must be False with .*nash: weights"),
    (dict(morel__scalarization="famo", loss__awp=True), r"config\.loss\.awp must be False with .*famo: weights"),
    (dict(morel__objectives="three"), r"config\.morel\.objectives must be two with .*conic, which weighs .*'three'"),
    (dict(morel__objectives="four"), r"config\.morel\.objectives must be one of two, three; got 'four'"),
    (dict(morel__smoothing=0.0), r"config\.morel\.smoothing must be positive; got 0\.0"),
    (dict(morel__famo_learning_rate=-1.0), r"config\.morel\.famo_learning_rate must be 0 or more; got -1\.0"),
    (dict(morel__scalarization="smooth_tchebycheff", morel__reference_point=(0.0,)),
     r"config\.morel\.reference_point must have two entries, .*; got \(0\.0,\)"),
    (dict(optimizer__drop_epochs=(75.5, 90)), r"config\.optimizer\.drop_epochs\[0\] must be of type int; got 75\.5"),
    (dict(optimizer__drop_epochs=(-1, 90)), r"config\.optimizer\.drop_epochs must be at least 1, .*; got \(-1, 90\)"),
    (dict(optimizer__drop_factors=(-0.1, 0.1)), r"config\.optimizer\.drop_factors must be 0 or more; got \(-0\.1"),
    (dict(optimizer__drop_factors=(0.1, float("nan"))), r"config\.optimizer\.drop_factors\[1\] must be finite"),
    (dict(optimizer__learning_rate=1e38, optimizer__drop_factors=(0.1, 100.0)), "drop_factors must give rates of"),
    (dict(loss__beta=1e39), r"config\.loss\.beta must be finite, and at most 3\.4e38 as float32 has it; got 1e\+39"),
    (dict(loss__beta=10**400), r"config\.loss\.beta must be finite"),
    (dict(loss__beta=1e-40), r"config\.loss\.beta must be 0 or at least 1\.2e-38 in size"),
    (dict(optimizer__momentum=0.99999999), r"config\.optimizer\.momentum must be in \[0, 1\), also when rounded"),
    (dict(attack__step_size=1e-9), r"config\.attack\.step_size must be at least 1e-06"),
    (dict(validation__epsilon=100.0), r"config\.validation\.epsilon must be .* in linf at most 1, .*; got 100"),
    (dict(validation__num_steps=3 * 10**9), r"config\.validation\.num_steps must be less than 2\*\*31 in size"),
    (dict(morel__temperature=1e-30), r"config\.morel\.temperature must be at least 1e-6"),
    (dict(morel__preference=(0.1, float("inf"))), r"config\.morel\.preference\[1\] must be finite"),
    (dict(morel__scalarization="weighted_sum", morel__preference=(0.0, 0.0)), r"preference must be .* one of them p"),
    (dict(embedding__embed_dim=10**9), r"config\.embedding\.embed_dim must be .* fewer than 2\*\*31; got 1000000000"),
    (dict(data__cutmix_alpha=1e30), r"config\.data\.cutmix_alpha must be in \[1e-3, 1e3\]"),
    (dict(data__cache_dir="s3://a/b"), r"config\.data\.cache_dir must be a path on a mounted file system"),
    (dict(data__extra="a\\b", data__extra_share=0.5), r"config\.data\.extra must not contain a backslash"),
    (dict(model__mean=(125.3, 123.0, 113.9), model__std=(0.2,) * 3), r"config\.model\.mean must be in \[0, 1\], the"),
    (dict(model__mean=(float("nan"),), model__std=(0.2,)), r"config\.model\.mean\[0\] must be finite"),
    (dict(model__mean=(0.5,), model__std=(63.0,)), r"config\.model\.std must be in \[1e-4, 1\]"),
    (dict(model__name="wide_resnet99999999994_10"), r"depth must be 6n \+ 4 .*, at most 1000"),
    (dict(validation__split="train"), r"config\.validation\.split must be one of test, holdout; got 'train'"),
    (dict(checkpoint__every_seconds=0.0), r"config\.checkpoint\.every_seconds must be positive; got 0\.0"),
])
def test_check_names_field_rule_and_value(change, message):
    check(defaults())
    with pytest.raises(ValueError, match=message):
        check(changed(**change))


def test_every_number_is_one_that_the_program_holds():
    """Of every field: no NaN, infinity, or number that float32 or int32 does not hold, alone or in a tuple."""
    for field, default in flatten(defaults()).items():
        if isinstance(default, (bool, str)) or field == "batch_norm.statistics_from":
            continue
        for number in (float("nan"), float("inf"), 1e39, -1e39, 1e-39, 10**400):
            value = (number,) * max(len(default), 1) if isinstance(default, tuple) else number
            with pytest.raises(ValueError, match=field.replace(".", r"\.")):
                check(changed(**{field.replace(".", "__"): value}))


def test_own_models_may_have_any_name():
    check(changed(model__name="mine"), own_model=object())
    with pytest.raises(ValueError, match="model name must be one of"):
        check(changed(model__name="mine"))


@pytest.mark.parametrize("given", [{"seed": 0}, None, "configs/small.py"])
def test_only_a_config_is_a_config(given):
    with pytest.raises(ValueError, match=r"config must be an ml_collections\.ConfigDict, .*; got (dict|NoneType|str)"):
        check(given)


def test_unknown_and_missing_fields():
    with pytest.raises(ValueError, match=r"config\.optimizer\.adaptive is not a field"):
        check(changed(optimizer__adaptive=True))
    config = defaults().to_dict()
    del config["loss"]["beta"]
    with pytest.raises(ValueError, match=r"config\.loss\.beta is missing"):
        check(ml_collections.ConfigDict(config))


def test_threats_of_recipes():
    """In L2 a radius of 128 / 255; TRADES's code has steps of 2 epsilon / steps from a normal start."""
    config = recipe("resnet18,morel_mart,paper,l2")
    assert (config.attack.norm, config.attack.epsilon, config.attack.step_size) == ("l2", 128 / 255, 15 / 255)
    assert (config.validation.norm, config.validation.epsilon, config.validation.step_size) == (
        "l2", 128 / 255, 128 / 255 / 10)
    check(config)
    trades = recipe("resnet18,trades,reference,l2").attack
    assert (trades.start, trades.loss, trades.step_size) == ("normal", "kl", 2 * trades.epsilon / 10)
    assert recipe("resnet18,mart,paper,linf") == recipe("resnet18,mart,paper")


def test_recipe_errors():
    with pytest.raises(ValueError, match='takes "architecture,method,variant,threat"; got'):
        recipe("resnet18,mart,paper,l2,extra")
    with pytest.raises(ValueError, match="a config's threat must be one of linf, l2; got 'l1'"):
        recipe("resnet18,mart,paper,l1")
    with pytest.raises(ValueError, match=r"config\.method must be one of .*; got 'sgd'"):
        recipe("resnet18,sgd")
    with pytest.raises(ValueError, match=r"config\.variant must be one of .*; got 'v3'"):
        recipe("resnet18,mart,v3")


def test_every_field_is_read(monkeypatch):
    """Builds everything from a config that remembers what was asked of it."""
    read = set()

    class Watched:
        def __init__(self, config, prefix=""):
            self._config, self._prefix = config, prefix

        def __getattr__(self, name):
            value = self._config[name]
            if isinstance(value, ml_collections.ConfigDict):
                return Watched(value, f"{self._prefix}{name}.")
            read.add(f"{self._prefix}{name}")
            return value

    monkeypatch.setattr(builders.data, "load", lambda *args, **kwargs: dataset())
    for method in METHODS:
        config = Watched(changed(method=method, validation__split="holdout", validation__holdout=2,
                                 swa_first_epoch=1, morel__conditioned=True))
        builders.splits(config, builders.dataset(config))
        build_parts(config, 10)
        build_layout(config)
        build_hparams(config, 1)
        builders.pgd(config.validation)
    for schedule in ("drops", "cosine", "one_cycle"):
        learning_rate(Watched(changed(optimizer__schedule=schedule)), 1)
    learning_rate(Watched(changed(optimizer__schedule="cyclic")), 1)
    # Read by the trainer itself, whose own tests vary them, and by the report of a run.
    in_trainer = {"seed", "data.placement", "data.extra", "data.extra_share", "validation.every",
                  "validation.batch_size", "checkpoint.every_seconds", "variant"}
    assert set(FIELDS) - read == in_trainer


def test_every_traced_number_is_read_by_a_step(monkeypatch):
    read, plain = set(), HParams.__getattr__

    def watched(hparams, name):
        read.add(name)
        return plain(hparams, name)

    monkeypatch.setattr(HParams, "__getattr__", watched)
    plain_methods = [small_config(name) for name, method in METHODS.items() if not method.has_embedding]
    for config in (small_config("standard", data__cutmix=True, ema_decay=0.5), small_config("trades", loss__awp=True),
                   small_config("morel_mart"), small_config("morel_mart", morel__conditioned=True),
                   small_config("morel_mart", morel__scalarization="famo"),
                   small_config("morel_mart", morel__scalarization="smooth_tchebycheff"), *plain_methods):
        made = setup(config, CustomParts(dataset(count=40)))
        jax.eval_shape(partial(train_step, parts=made.parts), *made.step_arguments)
    schedules = {"learning_rate", "awp_gamma", "loat_phase", "swa_first_step"}
    assert read >= {field.traced for field in FIELDS.values() if field.traced} | schedules


def test_names_of_earlier_versions():
    """A config that was written under a field's earlier name gets the present one; on the command line it is told."""
    stored = flatten(defaults())
    stored["batch_norm.moves"] = stored.pop("batch_norm.statistics_from")
    assert nested(stored).to_dict() == defaults().to_dict()
    config = defaults().to_dict()
    config["batch_norm"]["moves"] = ("natural",)
    with pytest.raises(ValueError, match=r"config\.batch_norm\.moves is config\.batch_norm\.statistics_from in this"):
        check(ml_collections.ConfigDict(config))


def test_methods_do_not_disagree_on_a_field():
    """A field that several methods read is one declaration."""
    for method in METHODS.values():
        for name, field in method.fields.items():
            assert FIELDS[name] is field


def test_fields_are_described():
    text = describe_fields()
    assert all(f"\n{name} = {shown(field.default)}\n    {field.meaning[:40]}" in text for name, field in FIELDS.items())
    assert max(map(len, text.splitlines())) <= 120
    assert FIELDS["attack.epsilon"].text() == (
        "Radius of the training attack, in units of images in [0, 1]. Source: paper, 4.1: PGD-10, 8/255, epsilon/4, "
        "random start. Sweepable. Must be at least 1e-06, and in linf at most 1, the width of images in [0, 1].")


@pytest.mark.parametrize(("value", "text"), [(8 / 255, "8/255"), (0.8 / 255, "0.8/255"), (0.031, "0.031"), (0.1, "0.1"),
                                             ((0.1, 8 / 255), "(0.1, 8/255)"), ("ce", "'ce'"), (False, "False")])
def test_values_are_shown(value, text):
    assert shown(value) == text
