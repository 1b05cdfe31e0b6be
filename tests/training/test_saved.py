import shutil

import absl.logging
import chex
import jax
import pytest

from morel_jax import manifest
from morel_jax.training import saved
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.saved import CheckpointError, load_classifier, load_record
from tests.training.checkpoints import abstract, record, restored, save, state


def test_the_record_alone(workdir):
    assert load_record(workdir, "last") == {"step": 19} | record(20)
    assert load_record(workdir, "best") == {"step": 19} | record(20)
    shutil.rmtree(workdir / "checkpoints" / "last" / "20" / "training")
    assert load_record(workdir, "last")["step"] == 19
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*nowhere/checkpoints/best; train first"):
        load_record(workdir / "nowhere", "best")


@pytest.mark.parametrize(("content", "fault"), [
    ("{}", "must have a field 'history' of type list; got nothing"), ('{"history": [', "is not valid JSON"),
    ('{"history": [3], "best": 0.5, "seconds": 0}', "must have a history of objects with 'step'"),
    ('{"history": [], "best": "0.5", "seconds": 0}', "must have a field 'best'")])
def test_a_record_of_another_shape_is_damage(workdir, content, fault):
    folder = workdir / "checkpoints" / "last" / "20"
    (folder / "record" / "metadata").write_text(content)
    with pytest.raises(CheckpointError, match=r"damaged: record/metadata must have \d+ bytes"):
        load_record(workdir, "last")
    manifest.write(folder)
    with pytest.raises(CheckpointError, match=f"{folder} is damaged: .*{fault}"):
        load_record(workdir, "last")
    assert restored(workdir) == 10


@pytest.mark.parametrize("read", [
    lambda workdir: load_classifier(workdir, "best", abstract(state(0).inference_variables()))["params"],
    lambda workdir: load_record(workdir, "best")["step"]])
def test_a_reader_takes_the_next_where_a_run_replaces_the_newest(workdir, monkeypatch, read):
    damage, replaced = saved.damage_of, []

    def replacing(folder, *part):
        if not replaced:
            replaced.append(folder)
            with Checkpoints(workdir) as checkpoints:
                save(checkpoints, 30, "best")
        return damage(folder, *part)

    monkeypatch.setattr(saved, "damage_of", replacing)
    found = read(workdir)
    monkeypatch.undo()
    chex.assert_trees_all_equal(found, read(workdir))
    assert replaced[0].name == "20"


def test_loaded_arrays_are_committed_to_no_device(workdir):
    """Else each function of them compiles twice: for images that are committed, as adversarial ones are, and others."""
    found = load_classifier(workdir, "best", abstract(state(0).inference_variables()))
    chex.assert_trees_all_equal(found, state(20).inference_variables())
    assert not any(leaf.committed for leaf in jax.tree.leaves(found))


def test_an_applications_own_log_is_left_as_it_is(workdir, caplog):
    absl.logging.set_verbosity(absl.logging.INFO)
    try:
        load_classifier(workdir, "best", abstract(state(0).inference_variables()))
        absl.logging.info("said by an application")
    finally:
        absl.logging.set_verbosity(absl.logging.WARNING)
    assert [said.getMessage() for said in caplog.records] == ["said by an application"]


def test_a_checkpoint_of_a_later_version_is_refused_and_left(workdir, monkeypatch):
    monkeypatch.setattr(saved, "FORMAT", 7)
    with Checkpoints(workdir) as checkpoints:
        save(checkpoints, 30)
        save(checkpoints, 30, "best")
    monkeypatch.undo()
    for read in (restored, lambda workdir: load_record(workdir, "last"),
                 lambda workdir: load_classifier(workdir, "best", state(0).inference_variables())):
        with pytest.raises(CheckpointError, match=r"/30 has format 7; this version .* reads formats up to 1"):
            read(workdir)
    assert sorted(path.name for path in (workdir / "checkpoints" / "last").iterdir()) == ["20", "30"]
    assert not (workdir / "checkpoints" / "damaged").exists()
