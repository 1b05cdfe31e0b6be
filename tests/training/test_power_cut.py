"""A power cut at any point of a run's writing leaves a state from which it goes on."""
import functools
import hashlib
import json
import os
import types
from pathlib import PurePosixPath

import pytest

from morel_jax import manifest
from morel_jax.files import write_atomically
from morel_jax.training import checkpoint, saved, workdir
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.workdir import open_workdir
from tests.small import small_config
from tests.training.checkpoints import restored, save
from tests.training.power_cut import Disk

RUN = "a/run"


@functools.cache
def blake2b(content):
    return hashlib.blake2b(content).hexdigest()


def checkpoints_in(view, which):
    """{position: whether it is whole}."""
    found = {}
    for path in view:
        folder = PurePosixPath(path)
        if str(folder.parent) == f"{RUN}/checkpoints/{which}" and folder.name.isdecimal():
            try:
                entries = json.loads(view[f"{path}/checksums.json"])
            except (KeyError, ValueError):
                entries = {"": {"blake2b": "none"}}
            found[int(folder.name)] = all(
                blake2b(view.get(f"{path}/{name}") or b"") == entry["blake2b"] for name, entry in entries.items())
    return found


class Watch:
    """What must hold at each point, whichever of the views a power cut leaves."""

    def __init__(self):
        self.config = None  # What ``config.json`` holds once it was written.
        self.promised = {"last": 0, "best": 0}  # Positions of which it was said that they are on the disk.
        self.faults, self.points, self.states = [], 0, {}

    def __call__(self, call, views):
        self.points += 1
        for number, view in enumerate(views):
            config = view.get(f"{RUN}/config.json")
            if config != self.config and (self.config is not None or config == b""):
                self.faults.append((call, number, "config.json"))
            both = {which: checkpoints_in(view, which) for which in self.promised}
            for which, found in both.items():
                promised, newest = self.promised[which], max(found, default=0)
                if newest < promised or (found and not found[newest]):
                    self.faults.append((call, number, which, promised, found))
            told = int(view.get(f"{RUN}/metrics.jsonl") or 0)
            if told > max(both["last"], default=0):
                self.faults.append((call, number, "metrics.jsonl", told))
            self.states.setdefault(repr((both, any(path.endswith(".tmp") for path in view))), view)


def record(root):
    """A run's first seconds: its folder, its config, and checkpoints, until some of each kind were replaced."""
    watch = Watch()
    with Disk(root, watch).recording():
        folder = open_workdir(small_config(), root / RUN)
        watch.config = (folder / "config.json").read_bytes()
        with Checkpoints(folder) as checkpoints:
            def promise(which, step):
                watch.promised[which] = step
                if which == "last":
                    write_atomically(folder / "metrics.jsonl", str(step))

            for step in (10, 20, 30):
                for which in ("best", "last") if step > 10 else ("last",):
                    save(checkpoints, step, which, functools.partial(promise, which, step))
    return watch


@pytest.mark.slow
def test_a_power_cut_at_any_point_leaves_a_state_to_go_on_from(tmp_path):
    (tmp_path / "disk").mkdir()
    watch = record(tmp_path / "disk")
    assert watch.points > 100
    assert watch.faults == []
    assert watch.promised == {"last": 30, "best": 30}
    print(f"{watch.points} points, {len(watch.states)} kinds of state")
    # The program finds what the model says that it can find: in a state of each kind.
    seen = set()
    for number, view in enumerate(watch.states.values()):
        root = tmp_path / str(number)
        for path, content in sorted(view.items()):
            if content is None:
                (root / path).mkdir(parents=True, exist_ok=True)
            else:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
        found = restored(open_workdir(small_config(), root / RUN))
        assert found == max(checkpoints_in(view, "last"), default=None)
        seen.add(found)
    assert seen == {None, 10, 20, 30}


def without(path):
    """Nothing in place of a sync."""


def remove_first(original, self, which, position):
    for older in saved.positions_in(self._folder / which):
        checkpoint._remove(self._path(which, older))
    original(self, which, position)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["files", "folders", "name", "folder made", "order"])
def test_what_is_not_synced_or_too_late_is_found(tmp_path, monkeypatch, mutant):
    """The model sees each of the steps that the program takes."""
    if mutant == "files":
        monkeypatch.setattr(manifest, "os", types.SimpleNamespace(fsync=without))
    elif mutant == "folders":
        monkeypatch.setattr(manifest, "sync", without)
    elif mutant == "name":
        monkeypatch.setattr(checkpoint, "sync", without)
    elif mutant == "folder made":
        monkeypatch.setattr(workdir, "make_folder", lambda path: os.makedirs(path, exist_ok=True))
    else:
        monkeypatch.setattr(Checkpoints, "_commit", functools.partialmethod(
            lambda self, which, position, original: remove_first(original, self, which, position),
            original=Checkpoints._commit))
    assert record(tmp_path).faults
