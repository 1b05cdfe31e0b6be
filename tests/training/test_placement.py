"""Runs as the trainer places them: alone over a mesh, or stacked."""
import logging

import chex
import jax
import numpy as np
import pytest

from morel_jax import builders, losses, training
from morel_jax.attacks import FGSM
from morel_jax.training import trainer
from morel_jax.training.placement import Sharded, Stacked, build_layout
from tests.small import small_config, small_dataset

pytestmark = pytest.mark.usefixtures("small_data")
SETTINGS = [{"seed": 1}, {"optimizer.learning_rate": 0.03}, {"preference": 0.4}]
# Of parameters after two epochs, where the compiled program is another.
ROUNDING = 1e-5


def compilations(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling jit(train")]


@pytest.mark.slow
def test_a_sweep_of_one_member_is_fits_program(tmp_path, caplog):
    """One compilation for both, and the same bits."""
    trainer.programs.cache_clear()
    config = small_config("standard", epochs=1)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        (outcome,) = training.fit_population(config, [{"seed": 4}], tmp_path / "sweep", progress=False)
        state, history = training.fit(small_config("standard", epochs=1, seed=4), tmp_path / "alone", progress=False)
    assert len(compilations(caplog)) == 1
    chex.assert_trees_all_equal(outcome.state, jax.device_get(state))
    assert outcome.history[0]["loss"] == history[0]["loss"]


def test_equal_placements_have_equal_programs():
    """A placement is what compiled programs are kept by: the number of members is no part of it."""
    assert Sharded(build_layout(small_config())) == Sharded(build_layout(small_config("mart")))
    assert hash(Stacked.over_local_devices(2, "vmapped")) == hash(Stacked.over_local_devices(3, "vmapped"))
    assert Stacked.over_local_devices(2, "vmapped") != Stacked.over_local_devices(2, "sequential")


def test_slots_are_filled_with_the_last_member():
    stacked = Stacked.over_local_devices(2)
    wider = type("Mesh", (), {"size": 4})()
    filled = Stacked(wider, "sequential", 5)
    assert (stacked.slots, filled.slots) == (2, 8)
    assert filled._filled(list("abcde")) == list("abcdeeee")
    np.testing.assert_array_equal(filled.stops(7, 3, [0, 4]), [7, 3, 3, 3, 7, 3, 3, 3])
    trees = [{"a": np.float32(1), "b": np.arange(3)}, {"a": np.float32(2), "b": np.arange(3) + 5}]
    chex.assert_trees_all_equal(stacked.fetch(stacked.states(trees)), trees)


@pytest.mark.parametrize("mode", ["sequential", "vmapped"])
@pytest.mark.slow
def test_members_streamed_from_the_host_are_those_of_the_device(tmp_path, mode):
    config = small_config("mart", epochs=1)
    resident, streamed = (
        training.fit_population(one, SETTINGS[:2], tmp_path / one.data.placement, progress=False, mode=mode)
        for one in (config, small_config("mart", epochs=1, data__placement="host")))
    for one, other in zip(resident, streamed, strict=True):
        chex.assert_trees_all_close(one.state, other.state, rtol=0, atol=ROUNDING)


def squared(views, labels, hparams):
    """A loss of the caller's own, which reads a swept number."""
    return losses.cross_entropy(views.logits_adv, labels) * hparams.beta


@pytest.mark.slow  # Bit for bit as users compile.
def test_members_take_custom_parts(tmp_path):
    custom = {"dataset": small_dataset(train=64), "loss": squared, "attack": FGSM(np.float32(0.05)),
              "model": builders.model(small_config(), 10)}
    config, settings = small_config("trades", epochs=1), [{"loss.beta": 2.0}, {"loss.beta": 0.5, "seed": 7}]
    outcomes = training.fit_population(config, settings, tmp_path / "sweep", progress=False, **custom)
    for number, outcome in enumerate(outcomes):
        state, _ = training.fit(outcome.member.config, tmp_path / str(number), progress=False, **custom)
        chex.assert_trees_all_equal(outcome.state, jax.device_get(state))
    with pytest.raises(ValueError, match=r"custom loss: 'squared' there, None given"):
        training.fit_population(config, settings, tmp_path / "sweep", progress=False, **custom | {"loss": None})


def test_a_custom_attack_and_a_swept_radius_exclude_each_other(tmp_path):
    settings = [{"attack.epsilon": 0.1}, {"attack.epsilon": 0.2}]
    with pytest.raises(ValueError, match=r"config\.attack\.epsilon must not be swept with a custom attack"):
        training.fit_population(small_config(), settings, tmp_path / "sweep", attack=FGSM(0.05))
    assert not (tmp_path / "sweep").exists()
