"""What goes beyond the paper's method, through a resumption and as a member of a population."""
import os
import signal

import chex
import jax
import numpy as np
import pytest

from morel_jax import training
from morel_jax.progress import TrainingProgress
from tests.small import small_config, small_dataset

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_data")]


@pytest.fixture(scope="module", params=["weights and images", "gradients and average", "three gradients", "famo"])
def extras(request, tmp_path_factory):
    """A config with much of it at once, each part of which would change the run."""
    if request.param == "gradients and average":
        return small_config("morel_mart", morel__scalarization="cagrad", morel__contrastive_weight=0.01,
                            swa_first_epoch=2, optimizer__schedule="cosine")
    if request.param in ("three gradients", "famo"):
        name = "famo" if request.param == "famo" else "upgrad"
        return small_config("morel_mart", morel__scalarization=name, morel__objectives="three",
                            morel__contrastive_weight=0.01)
    folder, split = tmp_path_factory.mktemp("extra"), small_dataset(train=160).train
    np.savez(folder / "part1.npz", image=split.images[96:130], label=split.labels[96:130])
    np.savez_compressed(folder / "part2.npz", image=split.images[130:], label=split.labels[130:])
    return small_config("trades", attack__loss="kl", loss__awp=True, data__cutmix=True, ema_decay=0.9,
                        loss__label_smoothing=0.1, data__extra=str(folder), data__extra_share=0.25,
                        data__cache_dir=str(folder / "cache"))


@pytest.fixture
def unbroken(extras, tmp_path):
    state, _ = training.fit(extras, tmp_path / "unbroken", progress=False)
    return jax.device_get(state)


def test_stopped_after_an_epoch_and_resumed(extras, unbroken, tmp_path, monkeypatch):
    original = TrainingProgress.start_epoch

    def interrupting(self, epoch, done):
        original(self, epoch, done)
        if epoch == 2 and done == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "start_epoch", interrupting)
    with pytest.raises(training.Interrupted):
        training.fit(extras, tmp_path / "run", progress=False)
    monkeypatch.setattr(TrainingProgress, "start_epoch", original)
    streamed = extras.copy_and_resolve_references()
    streamed.data.placement = "host"  # The unbroken run has the images on the device.
    state, _ = training.fit(streamed, tmp_path / "run", progress=False)
    chex.assert_trees_all_equal(jax.device_get(state), unbroken)


def test_a_member_is_the_run_trained_alone(extras, unbroken, tmp_path):
    settings = [{"seed": 5}, {"seed": extras.seed}]
    outcomes = training.fit_population(extras, settings, tmp_path / "sweep", progress=False, mode="sequential")
    chex.assert_trees_all_equal(outcomes[1].state, unbroken)
    other, member = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(outcome.state.params)])
                     for outcome in outcomes)
    assert np.abs(other - member).max() > 0.01
