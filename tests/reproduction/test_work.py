import shutil

import pytest

from morel_jax.files import DamagedFileError
from morel_jax.reproduction import work
from morel_jax.reproduction.grid import Grid, scale
from morel_jax.reproduction.trials import Reproduction
from morel_jax.training.workdir import open_sweep, open_workdir
from tests.reproduction.made import fill


def test_what_is_left(reproduction):
    before = work.remaining(reproduction, reproduction.families[1])
    config = reproduction.grid.base(reproduction.families[1])
    images = 10_000 - config.validation.holdout
    steps = images // config.batch_size * config.epochs * len(reproduction.trials(reproduction.families[1]))
    assert before.steps == steps
    assert before.train_flops > 0
    assert before.evaluate_flops > 0
    fill(reproduction, families=reproduction.families[1:2])
    after = work.remaining(reproduction, reproduction.families[1])
    assert (after.trials, after.steps, after.train_flops, after.evaluate_flops) == (0, 0, 0, 0)


def test_speed_is_measured(reproduction):
    assert 1e6 < work.measure_flops_per_second(reproduction.grid.base(reproduction.families[0])) < 1e16


def test_the_cost_is_a_table(reproduction, monkeypatch):
    monkeypatch.setattr(work, "measure_flops_per_second", lambda config: 1e9)
    families = reproduction.families[:2]
    fill(reproduction, families=families)
    assert work.describe_cost(reproduction, families) == "nothing is missing"
    reproduction.trials(families[1])[0].evaluation("best", "paper").path.unlink()
    head, line, *_, total = work.describe_cost(reproduction, families).splitlines()
    assert head.split() == ["family", "runs", "steps", "training", "evaluation", "hours"]
    left = work.remaining(reproduction, families[1])
    assert line.split()[:5] == [families[1].name, "0", "0", "0", f"{left.evaluate_flops:.3g}"]
    assert total == f"in all {left.evaluate_flops / 1e9 / 3600:.2f} hours"


@pytest.fixture
def finished(tmp_path):
    """A reproduction with nothing left to do."""
    reproduction = Reproduction(Grid(scale("smoke")), tmp_path, [7], [])
    for family in reproduction.families:
        trials = reproduction.trials(family)
        open_sweep({trial.member.name: trial.member.changes for trial in trials}, reproduction.folder / family.name)
        for trial in trials:
            open_workdir(trial.member.config, trial.folder)
    fill(reproduction)
    assert work.carry_out(reproduction, reproduction.families) == []
    return reproduction


def files(reproduction):
    return {path: path.read_bytes() for path in reproduction.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", [None, b"", b'{"epoch": 1, "st', b"\xff\x00"])
def test_metrics_of_a_finished_run_are_written_again(finished, content):
    trial, before = finished.trials(finished.families[-1])[1], files(finished)
    path = trial.folder / "metrics.jsonl"
    assert len(before[path].splitlines()) == trial.member.config.epochs
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert work.carry_out(finished, finished.families) == []
    assert files(finished) == before


def test_metrics_that_are_right_are_left_alone(finished):
    path = finished.trials(finished.families[0])[0].folder / "metrics.jsonl"
    before = path.stat().st_ino
    work.carry_out(finished, finished.families)
    assert path.stat().st_ino == before
    path.write_text(path.read_text().replace("0.7", "0.8"))
    work.carry_out(finished, finished.families)
    assert path.stat().st_ino != before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"config": {}}'])
def test_a_damaged_config_of_a_finished_run_is_one_line(finished, content):
    path = finished.trials(finished.families[-1])[1].folder / "config.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"{path} .*Put back a copy of it"):
        work.carry_out(finished, finished.families)


def test_missing_files_of_finished_runs_are_one_line(finished):
    path = finished.trials(finished.families[-1])[0].folder / "config.json"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"no config.json in {path.parent}"):
        work.carry_out(finished, finished.families)
    path.write_bytes(content)
    sweep = path.parents[1] / "sweep.json"
    sweep.unlink()
    with pytest.raises(ValueError, match=r"has runs in its folders but no sweep\.json"):
        work.carry_out(finished, finished.families)
    sweep.write_text("{")
    with pytest.raises(DamagedFileError, match=f"{sweep} is not valid JSON"):
        work.carry_out(finished, finished.families)


def test_a_run_that_diverged_before_its_first_epoch_gets_no_metrics(finished):
    trial = finished.trials(finished.families[0])[0]
    (trial.folder / "diverged.json").write_text('{"epoch": 1, "step": 3}')
    (trial.folder / "metrics.jsonl").unlink()
    shutil.rmtree(trial.folder / "checkpoints")
    finished.check_trained(finished.families[0])
    assert not (trial.folder / "metrics.jsonl").exists()
