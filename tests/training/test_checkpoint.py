import logging
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import sharding
from morel_jax.training.checkpoint import CheckpointError, Checkpoints, load_classifier
from morel_jax.training.state import TrainState


def state(step):
    """A state whose numbers all depend on ``step``."""
    weights = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
    params = {"classifier": {"kernel": jnp.asarray(weights)}, "embedding": {"kernel": jnp.asarray(weights[0])}}
    return TrainState(step=jnp.int32(step), params=params, batch_stats={"mean": jnp.asarray(weights[1])},
                      opt_state=jax.tree.map(lambda leaf: 2 * leaf, params))


def totals(step):
    return {"count": jnp.int32(step)}


def save(checkpoints, step, which="last"):
    checkpoints.save(which, step, state(step), totals(step), {"history": [{"step": step}]})


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def restored(workdir):
    """The step that is restored, once everything else has been seen to belong to it."""
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore(abstract(state(0)), abstract(totals(0)))
    if found is None:
        return None
    step = int(found[0].step)
    chex.assert_trees_all_equal(found, (state(step), totals(step), {"history": [{"step": step}]}))
    return step


@pytest.fixture
def workdir(tmp_path):
    """``last`` at 10 and 20, ``best`` at 20."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (5, 10):
            save(checkpoints, step)
        save(checkpoints, 20, "best")
        save(checkpoints, 20)
    return tmp_path


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


def lose_a_file_and_the_checksums(folder):
    lose_a_file(folder)
    (folder / "checksums.json").unlink()


def lose_everything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [truncate, flip_a_byte, lose_a_file, cut_the_checksums, lose_a_file_and_the_checksums, lose_everything]


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
    (record,) = caplog.records
    assert f"the checkpoint {folder} is damaged: " in record.getMessage()
    assert files(workdir / "checkpoints" / "damaged" / "last-20") == content
    with Checkpoints(workdir) as checkpoints:
        save(checkpoints, 20)
    assert restored(workdir) == 20


@pytest.mark.parametrize("before_reading", [True, False])
def test_what_another_process_finds_damaged_is_used_by_none(workdir, monkeypatch, caplog, before_reading):
    said = []

    def with_another_process(values):
        said.append(values)
        # The newest position is agreed on first, then whether it is whole, then whether it was read.
        others = [1.0] if len(said) == (2 if before_reading else 3) else [-1.0]
        return [max(pair) for pair in zip(values, others, strict=True)]

    monkeypatch.setattr(sharding, "agree", with_another_process)
    with caplog.at_level(logging.WARNING):
        assert restored(workdir) == 10
    (record,) = caplog.records
    assert "last/20 is damaged: another process cannot read it." in record.getMessage()
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


def test_a_kill_before_the_checksums_loses_nothing(workdir, caplog):
    (workdir / "checkpoints" / "last" / "20" / "checksums.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert restored(workdir) == 20
    assert not caplog.records


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
    (record,) = caplog.records
    assert f"the checkpoint {folder} is damaged: " in record.getMessage()


def test_the_state_may_be_overwritten_while_it_is_saved(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    given = state(20), totals(20)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", 20, *given, {"history": [{"step": 20}]})
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


def save_below_a_file(workdir, when):
    with Checkpoints(workdir) as checkpoints:
        (workdir / "checkpoints" / "last").rename(workdir / "elsewhere")
        (workdir / "checkpoints" / "last").touch()
        save(checkpoints, 30)
        if when == "next save":
            save(checkpoints, 30, "best")
        elif when == "wait":
            checkpoints.wait()


@pytest.mark.parametrize("when", ["next save", "wait", "end"])
def test_what_goes_wrong_in_the_background_is_an_error(workdir, when):
    with pytest.raises(CheckpointError, match=r"last/30 could not be written \(.*; the same command goes on") as error:
        save_below_a_file(workdir, when)
    assert "\n" not in str(error.value)
    (workdir / "checkpoints" / "last").unlink()
    (workdir / "elsewhere").rename(workdir / "checkpoints" / "last")
    assert restored(workdir) == 20
