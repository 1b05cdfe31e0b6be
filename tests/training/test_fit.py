import functools
import io
import itertools
import json
import logging
import os
import signal
import sys

import chex
import jax
import numpy as np
import pytest

from morel_jax import builders, evaluation, progress, training
from morel_jax.training import trainer
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.saved import load_record
from tests.small import interrupt_after, mostly_slow, tiny_config, tiny_dataset, without_clocks

pytestmark = pytest.mark.usefixtures("tiny_data")
# Of tests to which the method is all the same.
light_config = functools.partial(tiny_config, "standard", batch_norm__statistics_from=("natural",), ema_decay=0.9)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "dataset", lambda config: tiny_dataset())
        workdir = tmp_path_factory.mktemp("unbroken")
        return *training.fit(tiny_config(), workdir, progress=False), workdir


def test_a_runs_folder(unbroken):
    state, history, workdir = unbroken
    assert int(state.step) == 12
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == history
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 6), (2, 12)]
    for line in lines:
        assert {"loss", "cosine_loss", "contrastive_loss", "clean_accuracy", "robust_accuracy", "learning_rate",
                "images_per_second"} <= set(line)
    assert (workdir / "config.json").exists()
    assert list(workdir.glob("events.out.tfevents.*"))
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"best", "last"}


def test_a_finished_run_given_again_is_returned(unbroken):
    state, history, workdir = unbroken
    again, history_again = training.fit(tiny_config(), workdir, progress=False)
    chex.assert_trees_all_equal(again, state)
    assert history_again == history


def test_load_gives_the_plain_classifier(unbroken):
    state, history, workdir = unbroken
    logits_fn, config = evaluation.load(workdir, "last")
    assert config.to_dict() == tiny_config().to_dict()
    test = tiny_dataset().test
    x = test.images.astype(np.float32) / 255
    assert np.mean(np.argmax(logits_fn(x), -1) == test.labels) == history[-1]["clean_accuracy"]
    model = builders.model(config, 10)
    np.testing.assert_array_equal(logits_fn(x), model.apply(state.inference_variables(), x).logits)


def test_best_is_the_latest_of_the_most_robust(unbroken):
    _, history, workdir = unbroken
    best = max(history, key=lambda line: (line["robust_accuracy"], line["epoch"]))
    (kept,) = [path.name for path in (workdir / "checkpoints" / "best").iterdir() if path.name.isdigit()]
    assert int(kept) == best["step"] + best["epoch"]


def test_load_errors(unbroken, tmp_path):
    workdir = unbroken[-1]
    with pytest.raises(ValueError, match="which must be one of best, last; got 'first'"):
        evaluation.load(workdir, "first")
    with pytest.raises(FileNotFoundError, match="not a run's folder"):
        evaluation.load(tmp_path)
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*best; train first"):
        evaluation.load(tmp_path)


@pytest.mark.parametrize("train", [
    lambda workdir: training.fit(tiny_config(), workdir),
    lambda workdir: training.fit_population(tiny_config(), [{"seed": 1}], workdir)])
def test_a_workdir_is_a_local_path(tmp_path, monkeypatch, train):
    monkeypatch.chdir(tmp_path)
    for workdir in ("", "gs://bucket/run", "run\\a"):
        with pytest.raises(ValueError, match=r"workdir must (name a path|be a path on|not contain a backslash)"):
            train(workdir)
    assert not os.listdir(tmp_path)
    # The home folder's run is refused in its own place: it has lost its config.
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("run/checkpoints/last/7", "run/seed=1/checkpoints/last/7"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"{tmp_path}/run has .* but no (config|sweep).json"):
        train("~/run")
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(("moment", "number"), mostly_slow(
    itertools.product(("steps", "validation"), (signal.SIGINT, signal.SIGTERM)),
    ("steps", signal.SIGTERM), ("validation", signal.SIGINT)))
def test_a_signal_saves_and_the_resumed_run_is_bitwise_the_same(unbroken, tmp_path, monkeypatch, number, moment):
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, moment, number)
        with pytest.raises(training.Interrupted, match=r"stopped and saved at step .*the same command resumes") as stop:
            training.fit(tiny_config(), tmp_path, progress=False)
    assert stop.value.signal_number == number
    assert signal.getsignal(number) == before
    state, history = training.fit(tiny_config(), tmp_path, progress=False)
    chex.assert_trees_all_equal(state, unbroken[0])
    assert without_clocks(history) == without_clocks(unbroken[1])


def test_nothing_is_told_of_an_epoch_before_its_checkpoint_is_on_disk(unbroken, tmp_path, monkeypatch):
    """The kill comes as the checkpoint of the second epoch is put in place, long after its last step."""
    commit = Checkpoints._commit

    def killed(self, which, position):
        if which == "last" and position == 14:
            raise KeyboardInterrupt
        commit(self, which, position)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            training.fit(tiny_config(), tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == load_record(tmp_path, "last")["history"]
    assert [line["epoch"] for line in lines] == [1]
    state, history = training.fit(tiny_config(), tmp_path, progress=False)
    chex.assert_trees_all_equal(state, unbroken[0])
    assert without_clocks(history) == without_clocks(unbroken[1])


def test_records_are_what_fit_returns(unbroken):
    _, history, workdir = unbroken
    assert load_record(workdir, "last") == {"step": 12, "history": history, "seconds": 0.0,
                                            "best": max(line["robust_accuracy"] for line in history)}
    best = max(history, key=lambda line: (line["robust_accuracy"], line["epoch"]))
    assert load_record(workdir, "best")["history"][-1] == best


def test_another_config_in_the_workdir_is_refused(unbroken):
    with pytest.raises(ValueError, match=r"config\.batch_size: 8 there, 16 given"):
        training.fit(tiny_config(batch_size=16), unbroken[-1], progress=False)


def test_seeds_differ_and_repeat(unbroken, tmp_path):
    again, _ = training.fit(tiny_config(), tmp_path / "again", progress=False)
    chex.assert_trees_all_equal(again, unbroken[0])
    other, _ = training.fit(tiny_config(seed=1), tmp_path / "other", progress=False)
    assert any(np.any(np.asarray(a) != b) for a, b in zip(jax.tree.leaves(other.params),
                                                           jax.tree.leaves(again.params), strict=True))


def test_progress_shows_losses_speed_and_time_left(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    # However short an epoch is, its bar is drawn at each report.
    update = progress.tqdm.update
    monkeypatch.setattr(progress.tqdm, "update", lambda bar, count: (update(bar, count), bar.refresh()))
    training.fit(tiny_config(), tmp_path)
    shown = terminal.getvalue()
    for text in ("epoch 1/2", "loss=", "cosine=", "run left=", "img/s", "validated=", "clean", "robust", "best"):
        assert text in shown


def test_divergence_names_the_step_and_keeps_the_last_good_state(tmp_path):
    config = tiny_config(optimizer__drop_epochs=(2,), optimizer__drop_factors=(1e38,))
    with pytest.raises(training.Diverged, match=r"not finite at step \d+ \(epoch 2\).*checkpoints/last"):
        training.fit(config, tmp_path, progress=False)
    logits_fn, _ = evaluation.load(tmp_path, "last")
    assert np.isfinite(logits_fn(np.zeros((1, 28, 28, 1), np.float32))).all()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_divergence_before_anything_was_saved(tmp_path):
    with pytest.raises(training.Diverged, match=r"at step \d+ \(epoch 1\); nothing had been saved yet\."):
        training.fit(tiny_config(optimizer__learning_rate=1e38), tmp_path, progress=False)


def test_one_compilation_for_all_epochs_and_pieces(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "next_size", lambda size, seconds: 1)  # An epoch in several calls.
    trainer.programs.cache_clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for seed in range(2):  # The second run is another one of the same program.
            training.fit(light_config(seed=seed), tmp_path / str(seed), progress=False)
    compiled = [record for record in caplog.records if record.getMessage().startswith("Compiling jit(train_epoch)")]
    assert len(compiled) == 1


def test_average_survives_a_resumption(tmp_path):
    config = light_config()
    whole, _ = training.fit(config, tmp_path / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 2, "start_epoch")
        with pytest.raises(training.Interrupted):
            training.fit(config, tmp_path / "broken", progress=False)
    state, _ = training.fit(config, tmp_path / "broken", progress=False)
    chex.assert_trees_all_equal(state, whole)
    assert state.average is not None


def test_validation_only_where_asked_and_at_the_end(tmp_path):
    _, history = training.fit(light_config(epochs=3, validation__every=2), tmp_path, progress=False)
    assert ["robust_accuracy" in line for line in history] == [False, True, True]


@pytest.mark.slow  # Bit for bit as users compile: another program may round otherwise under the fast tests' flags.
def test_streaming_from_the_host_is_bitwise_the_same(unbroken, tmp_path):
    state, history = training.fit(tiny_config(data__placement="host"), tmp_path, progress=False)
    chex.assert_trees_all_equal(state, unbroken[0])
    assert without_clocks(history) == without_clocks(unbroken[1])
