import errno
import logging
import os
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import struct

from morel_jax import manifest, sharding
from morel_jax.training.checkpoint import CheckpointError, Checkpoints
from morel_jax.training.saved import load_classifier, load_record
from morel_jax.training.state import TrainState
from tests.training.checkpoints import abstract, record, restored, save, state, totals


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest(folder):
    # Of what training goes on from, where there is that: the classifier's file is nearly as large, at times larger.
    item = folder / ("training" if (folder / "training").exists() else "classifier")
    return max((path for path in item.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_byte(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_file(folder):
    largest(folder).unlink()


def cut_the_checksums(folder):
    path = folder / "checksums.json"
    path.write_bytes(path.read_bytes()[:100])


def lose_everything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def lose_the_checksums(folder):
    (folder / "checksums.json").unlink()


DAMAGES = [truncate, flip_a_byte, lose_a_file, cut_the_checksums, lose_the_checksums, lose_everything]


def test_newest_comes_back_and_two_are_kept(workdir):
    assert restored(workdir) == 20
    assert {path.name for path in (workdir / "checkpoints" / "last").iterdir()} == {"10", "20"}


def test_nothing_saved_is_none(tmp_path):
    assert restored(tmp_path) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_and_the_one_before_is_used(workdir, damage, caplog):
    folder = workdir / "checkpoints" / "last" / "20"
    damage(folder)
    content = files(folder)
    with caplog.at_level(logging.WARNING):
        assert restored(workdir) == 10
    (said,) = caplog.records
    assert f"the checkpoint {folder} is damaged: " in said.getMessage()
    assert files(workdir / "checkpoints" / "damaged" / "last-20") == content
    with Checkpoints(workdir) as checkpoints:
        save(checkpoints, 20)
    assert restored(workdir) == 20


def test_what_another_process_finds_damaged_is_used_by_none(workdir, monkeypatch, caplog):
    said = []

    def with_another_process(values):
        said.append(values)
        # The newest position is agreed on first, then whether it is whole.
        others = [1.0] if len(said) == 2 else [-1.0]
        return [max(pair) for pair in zip(values, others, strict=True)]

    monkeypatch.setattr(sharding, "agree", with_another_process)
    with caplog.at_level(logging.WARNING):
        assert restored(workdir) == 10
    (warning,) = caplog.records
    assert "last/20 is damaged: another process cannot read it." in warning.getMessage()
    assert (workdir / "checkpoints" / "damaged" / "last-20").exists()


def test_all_damaged_is_an_error_and_nothing_is_touched(workdir):
    for step in (10, 20):
        flip_a_byte(workdir / "checkpoints" / "last" / str(step))
    before = files(workdir)
    with pytest.raises(CheckpointError, match="put back a copy of one, or give another workdir") as error:
        restored(workdir)
    for step in (10, 20):
        assert f"last/{step} is damaged: training/" in str(error.value)
    assert files(workdir) == before


@pytest.mark.parametrize("moment", ["manifest.write", "sync", "_remove"])
def test_a_kill_while_a_checkpoint_is_put_in_place_loses_nothing(workdir, moment, monkeypatch, caplog):
    """Before its checksums, before its name is on the disk, and before the older one is gone."""
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"morel_jax.training.checkpoint.{moment}", killed)
        with pytest.raises(KeyboardInterrupt), Checkpoints(workdir) as checkpoints:
            save(checkpoints, 30)
    with caplog.at_level(logging.WARNING):
        assert restored(workdir) == (20 if moment == "manifest.write" else 30)
    assert not caplog.records
    with Checkpoints(workdir) as checkpoints:
        save(checkpoints, 40)
    assert restored(workdir) == 40
    assert {path.name for path in (workdir / "checkpoints" / "last").iterdir()} == (
        {"20", "40"} if moment == "manifest.write" else {"30", "40"})


def test_what_a_kill_left_half_written_is_removed(workdir):
    last = workdir / "checkpoints" / "last"
    for name in ("30.tmp", "30.tmp.orbax-checkpoint-tmp", "30.orbax-checkpoint-tmp", "10.removed.tmp"):
        (last / name / "training").mkdir(parents=True)
    assert restored(workdir) == 20
    assert {path.name for path in last.iterdir()} == {"10", "20"}


def test_a_whole_checkpoint_of_another_network_is_not_called_damaged(workdir):
    other = state(0).replace(params={"classifier": {"kernel": jnp.zeros((3, 3))}, "embedding": {}})
    with Checkpoints(workdir) as checkpoints, pytest.raises(ValueError, match="Requested shape") as error:
        checkpoints.restore(abstract(other), abstract(totals(0)))
    assert not isinstance(error.value, CheckpointError)
    assert restored(workdir) == 20


def test_the_classifier_of_a_damaged_checkpoint_is_an_error_that_names_the_file(workdir):
    shapes = abstract(state(0).inference_variables())
    chex.assert_trees_all_equal(load_classifier(workdir, "best", shapes), state(20).inference_variables())
    folder = workdir / "checkpoints" / "best" / "20"
    lost = largest(folder)
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{folder} is damaged: {lost.relative_to(folder)} is missing"):
        load_classifier(workdir, "best", shapes)


def test_a_damaged_best_is_reported_when_the_run_goes_on(workdir, caplog):
    folder = workdir / "checkpoints" / "best" / "20"
    flip_a_byte(folder)
    with caplog.at_level(logging.WARNING):
        assert restored(workdir) == 20
    (said,) = caplog.records
    assert f"the checkpoint {folder} is damaged: " in said.getMessage()


def test_the_state_may_be_overwritten_while_it_is_saved(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    given = state(20), totals(20)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", 20, *given, record(20))
        for _ in range(3):
            given = overwrite(given)
    assert restored(tmp_path) == 20


def test_best_is_on_disk_before_last_is_begun(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 20, "best")
        save(checkpoints, 20)
        assert (tmp_path / "checkpoints" / "best" / "20" / "checksums.json").exists()


def test_saving_the_same_position_again(workdir):
    def made():
        return {which: (workdir / "checkpoints" / which / "20").stat().st_ino for which in ("best", "last")}

    before = made()
    with Checkpoints(workdir) as checkpoints:
        save(checkpoints, 20)
        save(checkpoints, 20, "best")
    assert made()["last"] == before["last"]
    chex.assert_trees_all_equal(load_classifier(workdir, "best", abstract(state(0).inference_variables())),
                                state(20).inference_variables())


def test_a_folder_that_cannot_be_written_is_an_error(workdir):
    with Checkpoints(workdir) as checkpoints:
        (workdir / "checkpoints" / "last").rename(workdir / "elsewhere")
        (workdir / "checkpoints" / "last").touch()
        with pytest.raises(CheckpointError, match=r"last/30 could not be written \(.*; the same command") as error:
            save(checkpoints, 30)
    assert "\n" not in str(error.value)
    (workdir / "checkpoints" / "last").unlink()
    (workdir / "elsewhere").rename(workdir / "checkpoints" / "last")
    assert restored(workdir) == 20


def save_without_space(workdir, when):
    with Checkpoints(workdir) as checkpoints:
        save(checkpoints, 30, announce=lambda: pytest.fail("announced what is not on disk"))
        if when == "next save":
            save(checkpoints, 30, "best")
        elif when == "wait":
            checkpoints.wait()


@pytest.mark.parametrize("when", ["next save", "wait", "end"])
def test_what_goes_wrong_in_the_background_is_an_error(workdir, when, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(CheckpointError, match=r"last/30 could not be written \(.*No space left.*the same command"):
        save_without_space(workdir, when)
    assert restored(workdir) == 20


def test_a_checkpoint_is_announced_once_it_counts(tmp_path):
    found = []
    with Checkpoints(tmp_path) as checkpoints:
        for step in (10, 20):
            save(checkpoints, step, announce=lambda: found.append(load_record(tmp_path, "last")["step"]))
    assert found == [9, 19]


def test_what_goes_wrong_in_an_announcement_is_told_as_it_is(tmp_path):
    def failing():
        raise OSError("metrics.jsonl: no space left")

    with pytest.raises(OSError, match=r"^metrics\.jsonl: no space left$"), Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 10, announce=failing)
    assert restored(tmp_path) == 10


def test_a_field_that_the_state_gets_is_saved(tmp_path):
    @struct.dataclass
    class Later(TrainState):
        scale: jax.Array = None

    later = Later(**vars(state(3)), scale=jnp.float32(0.25))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", 3, later, totals(3), record(3))
    with Checkpoints(tmp_path) as checkpoints:
        found, _, _ = checkpoints.restore(abstract(later), abstract(totals(3)))
    chex.assert_trees_all_equal(found, later)


_SAVED_FROM_FOUR_DEVICES = """
import pathlib, sys
import jax
from morel_jax import sharding
from morel_jax.training.checkpoint import Checkpoints
from tests.training.checkpoints import record, state, totals

layout = sharding.Layout(sharding.make_mesh(4, 1), min_size=1)
written = jax.device_put(state(5), layout.state(state(5)))
sliced = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, fun_name="", **__: sliced.append(fun_name) if fun_name == "slice" else None)
with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
    checkpoints.save("last", 5, written, totals(5), record(5))
assert not sliced, f"{len(sliced)} slices"
"""


def test_what_all_devices_have_is_written_whole(tmp_path):
    """By Orbax in slices, each of which JAX would compile: for a small network 400, in four seconds."""
    outcome = subprocess.run([sys.executable, "-c", _SAVED_FROM_FOUR_DEVICES, tmp_path], text=True, capture_output=True,
                             env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"})
    assert outcome.returncode == 0, outcome.stderr
    assert restored(tmp_path) == 5
