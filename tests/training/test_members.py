import json

import jax
import ml_collections
import numpy as np
import pytest

from morel_jax.configuration import METHODS, defaults, flatten, recipe
from morel_jax.training.members import SWEEPABLE, build_members, parse_sweeps, read_settings, shared_config
from morel_jax.training.setup import build_hparams, build_parts
from tests.small import small_config

EPOCHS = (1, 75, 76, 80, 81, 89, 90, 91, 95, 96, 99, 100, 101, 102, 110, 111)


def _other(value):
    if isinstance(value, float):
        return 1.5 * value + 0.01
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    return tuple(_other(entry) for entry in value) if isinstance(value, tuple) else value


def _with(config, field, value):
    config = ml_collections.ConfigDict(config.to_dict())
    section, _, name = field.rpartition(".")
    inner = config[section] if section else config
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return config


def _numbers(config):
    return [build_hparams(config, epoch, steps_per_epoch=2) for epoch in EPOCHS]


def _become_traced_numbers(config):
    before = _numbers(config)
    for field, value in flatten(config).items():
        after = _numbers(_with(config, field, _other(value)))
        same_program = jax.tree.structure(before) == jax.tree.structure(after)
        if same_program and any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)):
            yield field


def test_sweepable_is_the_seed_and_all_that_becomes_a_traced_number():
    configs = [defaults(), *(_with(defaults(), *change) for change in (
        ("method", "loat"), ("optimizer.schedule", "one_cycle"), ("optimizer.schedule", "cyclic")))]
    traced = {field for config in configs for field in _become_traced_numbers(config)}
    # Rates of a cycle depend on the number of epochs, which all members share.
    assert {"seed", *traced - {"epochs"}} == set(SWEEPABLE)


@pytest.mark.parametrize("method", METHODS)
def test_the_program_is_built_without_what_is_swept(method):
    config = recipe(f"convnet_small,{method},paper")
    for field in SWEEPABLE:
        config = _with(config, field, None)
    build_parts(config, num_classes=10)


def test_what_members_share_is_hashable_and_equal():
    config = small_config()
    members = build_members(config, [{"preference": 0.2}, {"seed": 3, "optimizer.learning_rate": 1}])
    assert {shared_config(member.config) for member in members} == {shared_config(config)}
    assert shared_config(small_config(batch_size=8)) != shared_config(config)


@pytest.mark.parametrize(("flags", "settings"), [
    (["preference:0.1..0.9:9"], [{"morel.preference": k} for k in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]),
    (["morel.preference:(0.5,1.5),0.25"], [{"morel.preference": k} for k in ((0.5, 1.5), 0.25)]),
    (["seed:0..2:3"], [{"seed": seed} for seed in (0, 1, 2)]),
    (["seed:1,2", "loss.beta:3,6.5"], [{"seed": seed, "loss.beta": beta} for seed in (1, 2) for beta in (3, 6.5)]),
    (["optimizer.learning_rate:1e-3"], [{"optimizer.learning_rate": 1e-3}]),
    (["optimizer.drop_epochs:(75,90)"], [{"optimizer.drop_epochs": (75, 90)}]),
])
def test_flags(flags, settings):
    assert parse_sweeps(flags) == settings


@pytest.mark.parametrize(("flags", "message"), [
    (["preference"], r"FIELD:VALUE,VALUE,\.\.\. or FIELD:START\.\.STOP:COUNT; got 'preference'"),
    (["seed:"], "--sweep must be FIELD:VALUE"),
    (["seed:a,b"], r"in numbers; got 'seed:a,b'"),
    (["seed:0..1"], "in numbers; got"),
    (["seed:0..1:1"], "COUNT of at least 2; got 'seed:0..1:1'"),
    (["loss.beta:0..inf:3"], "finite ends"),
    (["seed:0..1:3"], r"whole numbers for config\.seed; got .* \[0\.0, 0\.5, 1\.0\]"),
    (["speed:1,2"], r"config\.speed is not a field"),
    (["batch_size:8,16"], r"config\.batch_size must be the same for all members: .*may be swept: seed, "),
    (["attack.num_steps:5,10"], r"config\.attack\.num_steps must be the same for all members"),
    (["preference:0.1,0.2", "morel.preference:0.3"], r"once; got config\.morel\.preference twice"),
])
def test_wrong_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_sweeps(flags)


def test_members_have_names_changes_and_whole_configs():
    members = build_members(small_config(), [{"preference": 0.3}, {"morel.preference": [0.5, 0.5], "loss.beta": 2}, {}])
    assert [member.name for member in members] == ["preference=0.3_0.7", "preference=0.5_0.5,beta=2.0", "base"]
    assert [member.changes for member in members] == [
        {"morel.preference": (0.3, 0.7)}, {"morel.preference": (0.5, 0.5), "loss.beta": 2.0}, {}]
    assert members[0].config.morel.preference == (0.3, 0.7)
    assert members[1].config.loss.beta == 2.0
    assert members[2].config.to_dict() == small_config().to_dict()


def test_names_are_short_only_where_that_is_clear():
    (member,) = build_members(small_config(), [{"optimizer.momentum": 0.5, "batch_norm.momentum": 0.8, "seed": 1}])
    assert member.name == "optimizer.momentum=0.5,batch_norm.momentum=0.8,seed=1"


@pytest.mark.parametrize(("settings", "message"), [
    ([], "at least one member"),
    ([{"seed": 1}, {"seed": 1}], "settings must differ; got seed=1 twice"),
    ([{"preference": 0.1, "morel.preference": 0.2}], "a setting must name a field once"),
    ([{"speed": 1}], r"config\.speed is not a field"),
    ([{"model.name": "resnet18"}], r"config\.model\.name must be the same for all members"),
    ([{"seed": 1}, {"preference": 1.5}], r"config\.morel\.preference\[1\] must"),
    ([{"loss.beta": -1}], r"config\.loss\.beta must be 0 or more; got -1\.0"),
    ([{"seed": 0.5}], r"config\.seed must be of type int"),
    ([{"ema_decay": 0.0}, {"ema_decay": 0.9}], r"config\.ema_decay and config\.swa_first_epoch must both be 0 for all"),
])
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        build_members(small_config(), settings)


def test_settings_from_a_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps([{"preference": 0.2, "seed": 1}, {"morel.preference": [0.3, 0.7]}]))
    assert [member.name for member in build_members(small_config(), read_settings(path))] == [
        "preference=0.2_0.8,seed=1", "preference=0.3_0.7"]
    for text, message in (("[{]", "not valid JSON"), ('{"seed": 1}', "must hold a list"), ("[1]", "must hold a list"),
                          ("[" * 100_000, r"settings\.json is not valid JSON \(nested too deeply\)")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_settings(path)
