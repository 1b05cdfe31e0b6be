import json
import socket
import subprocess

import pytest

from morel_jax.reporting.runs import find_runs
from morel_jax.training.workdir import open_sweep
from tests.reporting import made


def test_a_run_is_read(tmp_path):
    (found,) = find_runs([made.run(tmp_path / "a", loss__beta=3.0)])
    assert (found.name, found.state, found.notes) == ("a", "finished, 2 epochs", [])
    assert found.config["loss.beta"] == 3.0
    assert (found.best["epoch"], found.last["epoch"]) == (1, 2)
    assert found.is_finished


def test_how_far_a_run_is(tmp_path):
    begun, half = find_runs([made.run(tmp_path / "begun", 0), made.run(tmp_path / "half", 1)])
    assert (begun.state, half.state) == ("no epoch finished", "epoch 1 of 2")
    assert not begun.is_finished
    assert not half.is_finished
    for run in (begun, half):
        gone = subprocess.Popen(["true"])
        gone.wait()
        (run.folder / ".lock").write_text(f"process {gone.pid} on {socket.gethostname()}\n")
    begun, half = find_runs([begun.folder, half.folder])
    assert (begun.state, half.state) == ("no epoch finished, interrupted", "epoch 1 of 2, interrupted")
    assert not half.is_finished  # It may be resumed.
    (half.folder / "diverged.json").write_text('{"epoch": 2, "step": 9}')
    (half,) = find_runs([half.folder])
    assert half.state == "diverged at step 9"
    assert half.is_finished


def test_a_sweep_is_its_members_and_a_folder_what_lies_in_it(tmp_path):
    open_sweep({"k=1": {}, "k=2": {}}, tmp_path / "sweep")
    for name in ("sweep/k=1", "sweep/k=2", "alone"):
        made.run(tmp_path / name)
    assert [run.name for run in find_runs([tmp_path / "sweep"])] == ["k=1", "k=2"]
    assert [run.name for run in find_runs([tmp_path])] == ["alone", "k=1", "k=2"]
    assert len(find_runs([tmp_path, tmp_path / "alone", tmp_path / "sweep" / "k=1"])) == 3
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    assert [run.name for run in find_runs([tmp_path / "sweep"])] == ["k=1", "k=2"]


def test_names_tell_runs_apart(tmp_path):
    found = find_runs([made.run(tmp_path / "x" / "a"), made.run(tmp_path / "y" / "a")])
    assert [run.name for run in found] == ["x/a", "y/a"]


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_where_no_run_is(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}/{path}: RUN must be a folder with a run"):
        find_runs([tmp_path / path])


def test_what_is_damaged_is_a_note_and_the_rest_is_shown(tmp_path):
    folder = made.run(tmp_path / "a")
    (folder / "config.json").write_text("{")
    lines = [json.dumps(made.line(1)), "{", "7", '{"epoch": "x", "step": 1}',
             json.dumps(made.line(2, loss=float("nan")))]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    (found,) = find_runs([folder])
    assert [line["epoch"] for line in found.history] == [1, 2]
    assert "loss" not in found.history[1]
    assert [note.partition(" ")[0].rstrip(",") for note in found.notes] == [
        str(folder / "config.json"), *[str(folder / "metrics.jsonl")] * 3]
    assert [note.split("line ")[1][0] for note in found.notes[1:]] == ["2", "3", "4"]


def test_a_config_of_another_kind_is_a_note(tmp_path):
    folder = made.run(tmp_path / "a")
    content = json.loads((folder / "config.json").read_text())
    content["config"]["seed"] = {"of": 5}
    (folder / "config.json").write_text(json.dumps(content))
    (found,) = find_runs([folder])
    assert found.config == {}
    assert len(found.history) == 2
    assert found.notes[0].startswith(f"{folder / 'config.json'} is no config of this version (")
