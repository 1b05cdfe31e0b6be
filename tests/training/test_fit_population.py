import itertools
import json
import logging
import shutil
import subprocess
import sys
import types

import chex
import jax
import numpy as np
import pytest

from morel_jax import builders, evaluation, training
from morel_jax.training import checkpoint, trainer
from tests.small import interrupt_after, tiny_config, tiny_dataset, without_clocks
from tests.training.nine_members import MODES

pytestmark = pytest.mark.usefixtures("tiny_data")

SETTINGS = [{"preference": 0.2}, {"optimizer.learning_rate": 0.03, "seed": 5}, {"seed": 1}]
# Of parameters and losses after two epochs, where the compiled program is not the one of a run alone.
ROUNDING = 1e-5
NAMES = ["preference=0.2_0.8", "learning_rate=0.03,seed=5", "seed=1"]


def assert_same(outcomes, expected):
    assert [outcome.member.name for outcome in outcomes] == [outcome.member.name for outcome in expected]
    for outcome, other in zip(outcomes, expected, strict=True):
        chex.assert_trees_all_equal(outcome.state, other.state)
        assert without_clocks(outcome.history) == without_clocks(other.history)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(outcomes, workdir) of three members, one after another on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "dataset", lambda config: tiny_dataset())
        workdir = tmp_path_factory.mktemp("sweep")
        return training.fit_population(tiny_config(), SETTINGS, workdir, progress=False, mode="sequential"), workdir


# Bit for bit as users compile: under the fast tests' flags another program may round otherwise.
as_users_compile = pytest.mark.slow


@as_users_compile
@pytest.mark.parametrize("number", range(3))
def test_a_member_is_bitwise_the_run_trained_alone(unbroken, tmp_path, number):
    outcome = unbroken[0][number]
    assert outcome.member.name == NAMES[number]
    assert outcome.diverged is None
    state, history = training.fit(outcome.member.config, tmp_path, progress=False)
    chex.assert_trees_all_equal(outcome.state, jax.device_get(state))
    assert without_clocks(outcome.history) == without_clocks(history)


def test_a_members_folder_is_a_runs_folder(unbroken):
    outcomes, workdir = unbroken
    assert json.loads((workdir / "sweep.json").read_text()) == {
        outcome.member.name: json.loads(json.dumps(outcome.member.changes)) for outcome in outcomes}
    for outcome in outcomes:
        folder = workdir / outcome.member.name
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines == outcome.history
        best = max(lines, key=lambda line: (line["robust_accuracy"], line["epoch"]))
        (kept,) = [path.name for path in (folder / "checkpoints" / "best").iterdir() if path.name.isdigit()]
        assert int(kept) == best["step"] + best["epoch"]
        logits_fn, config = evaluation.load(folder, "last")
        assert config.to_dict() == outcome.member.config.to_dict()
        test = tiny_dataset().test
        right = np.asarray(logits_fn(test.images.astype(np.float32) / 255)).argmax(-1) == test.labels
        assert np.mean(right, dtype=np.float64) == lines[-1]["clean_accuracy"]


def test_a_finished_sweep_given_again_is_returned(unbroken):
    outcomes, workdir = unbroken
    assert_same(training.fit_population(tiny_config(), SETTINGS, workdir, progress=False), outcomes)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "calls"), [("steps", 2), ("validation", 2)])
def test_a_signal_saves_and_the_resumed_sweep_is_bitwise_the_same(unbroken, tmp_path, monkeypatch, method, calls):
    with monkeypatch.context() as patch:
        interrupt_after(patch, calls, method)
        with pytest.raises(training.Interrupted, match=r"stopped and saved 3 members at step \d+ .*resumes from there"):
            training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False)
    assert_same(training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False), unbroken[0])


@as_users_compile
def test_fit_goes_on_with_a_member(unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(training.Interrupted):
            training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False)
    outcome = unbroken[0][1]
    state, history = training.fit(outcome.member.config, tmp_path / outcome.member.name, progress=False)
    chex.assert_trees_all_equal(jax.device_get(state), outcome.state)
    assert without_clocks(history) == without_clocks(outcome.history)
    # Its checkpoints are now later than those of the others.
    with pytest.raises(ValueError, match=r"one and the same position; got preference=0\.2_0\.8: \["):
        training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False)


def kill_while_saving(monkeypatch, saves):
    """Ends the sweep in the midst of a burst of saves, as a kill would."""
    original, seen = checkpoint.Checkpoints.save, []

    def killing(self, which, *arguments):
        if which == "last":
            seen.append(which)
            if len(seen) > saves:
                raise KeyboardInterrupt
        original(self, which, *arguments)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", killing)


@pytest.mark.slow
@pytest.mark.parametrize("saves", [1, 4])
def test_members_that_were_saved_at_different_positions_go_on_from_a_common_one(unbroken, tmp_path, monkeypatch, saves):
    with monkeypatch.context() as patch:
        kill_while_saving(patch, saves)
        with pytest.raises(KeyboardInterrupt):
            training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False)
    assert_same(training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False), unbroken[0])


@pytest.mark.slow
def test_a_members_failed_write_stops_all_at_a_position_that_all_have(unbroken, tmp_path, monkeypatch):
    """The error comes to light at that member's next save; by then no other may have dropped what it still has."""
    commit, written = checkpoint.Checkpoints._commit, []

    def failing(self, which, position):
        commit(self, which, position)
        if which == "last" and self._folder.parent.name == NAMES[2]:
            written.append(position)
            if len(written) == 2:
                shutil.rmtree(self._folder / which / str(position))
                raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "_commit", failing)
        # Each look at the clock a thousand seconds after the last: all are saved after every step.
        patch.setattr(trainer, "time", types.SimpleNamespace(monotonic=itertools.count(step=1000.0).__next__))
        with pytest.raises(OSError, match="could not be written"):
            training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False)
    assert len(written) == 2
    assert_same(training.fit_population(tiny_config(), SETTINGS, tmp_path, progress=False), unbroken[0])


def test_nothing_is_told_of_a_member_before_it_is_on_disk(tmp_path, monkeypatch):
    """Neither an epoch's metrics nor that it diverged; the kill comes as its last good state is put in place."""
    commit = checkpoint.Checkpoints._commit

    def killed(self, which, position):
        if self._folder.parent.name.startswith("drop_epochs") and which == "last":
            raise KeyboardInterrupt
        commit(self, which, position)

    monkeypatch.setattr(checkpoint.Checkpoints, "_commit", killed)
    settings = [{"seed": 1}, {"optimizer.drop_epochs": [2], "optimizer.drop_factors": [1e38]}, {"seed": 2}]
    with pytest.raises(KeyboardInterrupt):
        training.fit_population(tiny_config(), settings, tmp_path, progress=False)
    (folder,) = tmp_path.glob("drop_epochs*")
    assert not (folder / "metrics.jsonl").exists()
    assert not (folder / "diverged.json").exists()
    assert len((tmp_path / "seed=1" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others_as_they_are(unbroken, tmp_path, monkeypatch):
    settings = [SETTINGS[0], {"optimizer.drop_epochs": [2], "optimizer.drop_factors": [1e38]}, SETTINGS[1]]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, "validation")
        with pytest.raises(training.Interrupted):
            training.fit_population(tiny_config(), settings, tmp_path, progress=False)
    for _ in range(2):  # The second finds all of them ended.
        outcomes = training.fit_population(tiny_config(), settings, tmp_path, progress=False)
        bad = outcomes.pop(1)
        assert_same(outcomes, unbroken[0][:2])
        assert bad.state is None
        assert bad.diverged["epoch"] == 2
        assert 6 <= bad.diverged["step"] < 12
        assert len(bad.history) == 1
    assert json.loads((tmp_path / bad.member.name / "diverged.json").read_text()) == bad.diverged
    logits_fn, _ = evaluation.load(tmp_path / bad.member.name, "last")
    assert np.isfinite(logits_fn(np.zeros((1, 28, 28, 1), np.float32))).all()


def test_a_sweep_ends_when_all_have_diverged(tmp_path):
    settings = [{"optimizer.learning_rate": rate} for rate in (1e38, 2e38, 3e38)]
    for _ in range(2):
        outcomes = training.fit_population(tiny_config(), settings, tmp_path, progress=False)
        assert all(outcome.diverged["epoch"] == 1 and outcome.history == [] for outcome in outcomes)


@pytest.mark.slow
def test_vmapped_members_are_the_same_but_for_rounding(tmp_path):
    """After one epoch. In a later one rounding may turn the sign of a vanishing gradient in an attack, which counts."""
    outcomes, expected_outcomes = (
        training.fit_population(tiny_config(epochs=1), SETTINGS, tmp_path / mode, progress=False, mode=mode)
        for mode in ("vmapped", "sequential"))
    for outcome, expected in zip(outcomes, expected_outcomes, strict=True):
        chex.assert_trees_all_close(outcome.state, expected.state, rtol=0, atol=ROUNDING / 10)
        for line, other in zip(outcome.history, expected.history, strict=True):
            assert line["loss"] == pytest.approx(other["loss"], rel=ROUNDING)


def compilations(caplog, name):
    return [record for record in caplog.records if record.getMessage().startswith(f"Compiling jit({name})")]


def test_one_compilation_for_all_members_and_none_for_as_many_others(tmp_path, caplog):
    trainer.programs.cache_clear()
    config = tiny_config("standard", epochs=1, batch_norm__statistics_from=("natural",))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for sweep in range(2):
            training.fit_population(config, [{"seed": 10 * sweep + seed, "loss.label_smoothing": seed / 10}
                                             for seed in range(3)], tmp_path / str(sweep), progress=False)
            assert [len(compilations(caplog, name)) for name in ("train", "judge")] == [1, 1]


def test_progress_shows_the_mean_of_members(tmp_path, capfd):
    config = tiny_config("standard", epochs=1, batch_norm__statistics_from=("natural",))
    outcomes = training.fit_population(config, [{"seed": 1}, {"seed": 2}, {"seed": 3}], tmp_path)
    mean = np.mean([outcome.history[0]["loss"] for outcome in outcomes])
    assert f"epoch 1/1, mean of 3  loss {mean:.4f}" in capfd.readouterr().err


@as_users_compile
def test_averages(tmp_path):
    config = tiny_config("standard", epochs=1, batch_norm__statistics_from=("natural",), ema_decay=0.9)
    (outcome,) = training.fit_population(config, [{"ema_decay": 0.5}], tmp_path / "sweep", progress=False)
    state, _ = training.fit(outcome.member.config, tmp_path / "alone", progress=False)
    chex.assert_trees_all_equal(outcome.state, jax.device_get(state))
    assert outcome.state.average is not None


@pytest.mark.parametrize(("changes", "options", "message"), [
    (dict(mesh__fsdp=2), {}, r"config\.mesh\.fsdp must be 1 in a population.*got 2"),
    ({}, dict(mode="parallel"), "mode must be one of sequential, vmapped; got 'parallel'"),
    (dict(epochs=0), {}, r"config\.epochs must be at least 1; got 0"),
])
def test_wrong_configs(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        training.fit_population(tiny_config(**changes), SETTINGS, tmp_path / "sweep", progress=False, **options)
    assert not (tmp_path / "sweep").exists()


def test_another_sweep_in_the_workdir_is_refused(unbroken, tmp_path):
    workdir = unbroken[1]
    with pytest.raises(ValueError, match="keeps those it began with") as error:
        training.fit_population(tiny_config(), [*SETTINGS[:2], {"seed": 2}], workdir, progress=False)
    assert "seed=1: there, not given" in str(error.value)
    assert "seed=2: given, not there" in str(error.value)
    with pytest.raises(ValueError, match=r"config\.batch_size: 8 there, 16 given"):
        training.fit_population(tiny_config(batch_size=16), SETTINGS, workdir, progress=False)
    with pytest.raises(ValueError, match="holds a single run"):
        training.fit_population(tiny_config(), SETTINGS, workdir / NAMES[0], progress=False)


@pytest.fixture(scope="module")
def nine_members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nine")
    subprocess.run([sys.executable, "-m", "tests.training.nine_members", folder / "found.json", folder / "runs"],
                   check=True)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_nine_members_on_eight_devices_are_the_runs_trained_alone(nine_members, mode):
    found = nine_members[mode]
    assert len(found) == 9
    for name, (difference, history, alone) in found.items():
        assert difference < ROUNDING, name
        assert [line["loss"] for line in history] == pytest.approx([line["loss"] for line in alone], rel=ROUNDING)
    assert len({line["loss"] for _, history, _ in found.values() for line in history}) == 18
