import json

import pytest

from morel_jax.files import DamagedFileError
from morel_jax.reproduction.grid import Grid, scale
from morel_jax.reproduction.trials import Reproduction
from morel_jax.training.saved import CheckpointError
from tests.reproduction.made import CELL, fill, write_last


def test_trained_is_what_the_last_checkpoint_says(trial):
    """A run that was killed, whose metrics know more than its ``last``, is not trained."""
    epochs = trial.member.config.epochs
    lines = [{"epoch": epoch, "step": 6 * epoch} for epoch in range(1, epochs + 1)]
    assert (trial.is_trained(), trial.history()) == (False, [])
    folder = write_last(trial, lines[:-1], 6 * epochs - 2)
    (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (trial.is_trained(), trial.history()) == (False, lines[:-1])
    folder = write_last(trial, lines, 6 * epochs)
    assert (trial.is_trained(), trial.history()) == (True, lines)
    (folder / "record" / "metadata").write_text("{}")
    assert not trial.is_trained()
    with pytest.raises(CheckpointError, match=f"{folder} is damaged: record/metadata must have"):
        trial.history()


@pytest.mark.parametrize("content", ["", "{", '{"clean": {}}', '{"clean": {}, "attacks": 5}',
                                     '{"clean": {}, "attacks": {}}', '{"clean": {}, "attacks": {"pgd20": 0.5}}'])
def test_a_damaged_summary_is_one_line_with_a_remedy(reproduction, content):
    network = reproduction.grid.network(CELL)
    fill(reproduction, families=[reproduction.grid.family(network)])
    path = reproduction.trials_of(network)[0].evaluation("best", "paper").path
    path.write_text(content)
    with pytest.raises(DamagedFileError, match=f"{path} .*Delete it, and give the command again"):
        reproduction.values(CELL)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"text"])
def test_a_damaged_heat_map_is_one_line_with_a_remedy(trial, content):
    evaluation = trial.evaluation("last", "heat_map")
    evaluation.folder.mkdir(parents=True)
    assert evaluation.heat_map() is None
    (evaluation.folder / "heat_map.npz").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"heat_map\.npz cannot be read .*Delete it, and give the command again"):
        evaluation.heat_map()


def test_a_root_that_is_no_local_path_is_refused():
    with pytest.raises(ValueError, match="root must be a path on a mounted file system"):
        Reproduction(Grid(scale("smoke")), "gs://bucket/root", [1], [])


def test_shards_part_the_work(reproduction):
    parts = [reproduction.shard(number, 3) for number in (1, 2, 3)]
    assert sorted(family.name for part in parts for family in part) == sorted(
        family.name for family in reproduction.families)
    assert reproduction.families[0].networks[0].method == "standard"  # Others wait for it.


def test_a_request_needs_no_more_than_its_own(tmp_path):
    reproduction = Reproduction(Grid(scale("paper")), tmp_path, [7], [])
    assert [family.name for family in reproduction.families] == ["cifar10-resnet18-loat", "cifar10-resnet18-morel_loat"]
    assert len(reproduction.evaluations(reproduction.families[0])) == 2 * 3  # best and last of three seeds
