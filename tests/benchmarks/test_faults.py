"""The campaign of faults: its pure parts, and that it tells what is wrong from what is right."""
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import __main__ as campaign
from benchmarks.faults import config_values, damaged, flag_values, kills, scenarios
from benchmarks.faults.children import Children, Ended
from benchmarks.faults.compare import differences, is_unfinished, snapshot
from benchmarks.faults.damage import DAMAGES, candidates
from morel_jax.configuration import flatten

LINE = {"epoch": 1, "loss": 0.5}


def ended(status=0, stderr="", hung=False):
    return Ended(status, "", stderr, 1.0, hung)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_snapshots_differ_by_content_but_not_by_clocks(tmp_path):
    folders = [write(tmp_path / str(seconds), table__csv="a", metrics__jsonl=json.dumps(LINE | {"seconds": seconds}))
               for seconds in (1, 2)]
    assert differences(*map(snapshot, folders)) == []
    write(folders[1], table__csv="b", more__md="", metrics__jsonl=json.dumps(LINE | {"loss": 0.25}))
    (folders[1] / "events.out.tfevents.1").write_text("")
    (folders[1] / ".lock").write_text("")
    assert differences(*map(snapshot, folders)) == [
        "metrics.jsonl: other content", "more.md: left over", "table.csv: other sha256"]
    assert differences(snapshot(folders[0]), {}) == ["metrics.jsonl: missing", "table.csv: missing"]


def test_unfinished_files_and_folders_are_differences(tmp_path):
    before = snapshot(write(tmp_path, a="a"))
    (tmp_path / ".entry.x1y2").mkdir()
    write(tmp_path, config__json__tmp="{")
    assert differences(before, snapshot(tmp_path)) == [".entry.x1y2: left over", "config.json.tmp: left over"]
    assert not is_unfinished(".lock")


def test_checkpoints_are_compared_by_their_arrays(tmp_path):
    import orbax.checkpoint as ocp
    weights = {"kernel": np.arange(6, dtype=np.float32)}
    for name, changed in (("a", 0), ("b", 0), ("c", 1)):
        folder = tmp_path / name / "checkpoints" / "best" / "3"
        (folder / "record").mkdir(parents=True)
        (folder / "record" / "metadata").write_text(json.dumps({"history": [LINE | {"seconds": random.random()}]}))
        with ocp.StandardCheckpointer() as writer:
            writer.save(folder / "classifier", {"kernel": weights["kernel"] + np.eye(1, 6)[0] * changed * 1e-3})
    a, b, c = (snapshot(tmp_path / name) for name in "abc")
    assert differences(a, b) == []
    assert differences(a, c) == ["checkpoints/best: other classifier['kernel']"]
    (tmp_path / "b" / "checkpoints" / "best" / "2").mkdir()
    (tmp_path / "b" / "checkpoints" / "best" / "3" / "record" / "metadata").write_text("{")
    assert differences(a, snapshot(tmp_path / "b")) == ["checkpoints/best: unreadable (JSONDecodeError)",
                                                         "checkpoints/best/2: left over"]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_changes_one_file(tmp_path, name):
    content = json.dumps({"a": {"b": [1, 2]}, "c": 0.5}).encode()
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for path in (folder / "one.json", folder / "two.json"):
            path.write_bytes(content)
        DAMAGES[name](folder / "one.json", random.Random(seed))
        assert not (folder / "one.json").is_file() or (folder / "one.json").read_bytes() != content
        assert (folder / "two.json").read_bytes() == content


def test_damages_of_lines_and_of_bytes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(2 * (json.dumps(LINE) + "\n"))
    DAMAGES["change_type"](path, random.Random(0))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2
    assert lines.count(LINE) == 1
    path.write_bytes(b"\xff" * 8)
    DAMAGES["flip"](path, random.Random(0))
    assert sum(bin(byte).count("0") - 1 for byte in path.read_bytes()) == 1
    DAMAGES["change_type"](path, random.Random(0))
    assert path.read_text() == "text\n"


def test_every_kind_of_file_is_damaged_as_often(tmp_path):
    folder = tmp_path / "run"
    arrays = folder / "checkpoints" / "last" / "7" / "classifier" / "d"
    write(arrays, **{f"file{number}": "x" for number in range(30)})
    write(folder, config__json="{}", metrics__jsonl="{}\n")
    (folder / ".lock").write_text("")
    kinds = candidates(tmp_path)
    assert {kind: len(names) for kind, names in kinds.items()} == {
        "config.json": 1, "metrics.jsonl": 1, "last: arrays": 30}
    plan = damaged.plan({("train", "finished"): tmp_path}, 21, "seed")
    assert len(plan) == len(set(plan)) == 3 * len(DAMAGES)
    assert plan == damaged.plan({("train", "finished"): tmp_path}, 21, "seed") != damaged.plan(
        {("train", "finished"): tmp_path}, 21, "other")


CONFIG, BEST = Path("run/config.json"), Path("run/checkpoints/best/7/classifier/d/abc")


@pytest.mark.parametrize(("found", "unlike", "name", "outcome"), [
    (ended(), [], CONFIG, "repaired"),
    (ended(stderr="run/checkpoints/best/7 is damaged\n"), ["run/checkpoints/best: unreadable"], BEST, "reported"),
    (ended(stderr="run/checkpoints/best/7 is damaged\n"), ["run/metrics.jsonl: other"], BEST, "another end"),
    (ended(), ["run/checkpoints/best: unreadable"], BEST, "left damaged"),
    (ended(), ["run/config.json: other content"], CONFIG, "left damaged"),
    (ended(), ["run/config.json: other content", "run/summary.json: other sha256"], CONFIG, "another end"),
    (ended(2, "error: run/config.json is not valid JSON.\n"), ["x: missing"], CONFIG, "refused"),
    (ended(2, "error: run holds another config:\n  config.seed: 1 there, 0 given\n"), [], CONFIG, "refused"),
    (ended(2, "error: Expecting value: line 1 column 1 (char 0)\n"), [], CONFIG, "names no file"),
    (ended(2, "error: run/config.json is not valid JSON.\nI0000 tensorstore\n"), [], CONFIG, "more than one line"),
    (ended(1, "Traceback (most recent call last):\n  ...\nKeyError: 'a'\n"), [], CONFIG, "traceback"),
    (ended(0, "Traceback (most recent call last):\n  ...\nKeyError: 'a'\n"), [], CONFIG, "traceback"),
    (ended(-11), [], CONFIG, "traceback"),
    (ended(-9, hung=True), [], CONFIG, "hang"),
    (ended(3, "error: run/config.json\n"), [], CONFIG, "status 3, 1 lines of error"),
])
def test_the_verdict_on_a_damage(found, unlike, name, outcome):
    assert damaged.judge(found, unlike, name)[0] == outcome


def test_every_field_and_every_bad_number_is_tried():
    config = config_values.base()
    pairs = config_values.generate(config)
    assert {field for field, _ in pairs} == set(flatten(config))
    of_beta = [value for field, value in pairs if field == "loss.beta"]
    assert any(isinstance(value, float) and math.isnan(value) for value in of_beta)
    assert {math.inf, -math.inf, -1, 1e39, 2**63} <= {value for value in of_beta if isinstance(value, (int, float))}
    assert (-0.1,) in [value for field, value in pairs if field == "optimizer.drop_factors"]
    chosen = config_values.choose(pairs, 200, 0)
    assert len(chosen) == 200
    assert {field for field, _ in chosen} == set(flatten(config))
    assert repr(chosen) == repr(config_values.choose(pairs, 200, 0))


@pytest.mark.parametrize(("value", "default", "nonsense"), [
    (math.nan, 0.5, True), (1e39, 0.5, True), (10**400, 0.5, True), (True, 0.5, True), ("1", 0.5, True),
    (-1, 0.5, False), (2, 0.5, False), (0.5, 1, True), (2**63, 1, True), (2**31, 1, False), (1, True, True),
    ((0.5, math.inf), (0.1, 0.9), True), (0.5, (), True), ((0.5,), (), False), ("x", "y", False), (3, "y", True),
])
def test_what_no_program_can_take(value, default, nonsense):
    assert config_values.is_nonsense("field", value, default) == nonsense


def test_the_verdict_on_a_field():
    assert config_values.judge("attack.epsilon", -1)[0] == "refused"
    assert config_values.judge("seed", 3) == ("accepted", "")
    assert config_values.judge("seed", "3")[0] == "refused"


@pytest.mark.parametrize(("found", "outcome"), [
    (ended(2, "error: epsilon must be positive; got nan.\n"), "refused"),
    (ended(2, "error: something is wrong.\n"), "names nothing"),
    (ended(2, "W0000 tensorstore\nerror: epsilon must be positive; got nan.\n"), "not one line"),
    (ended(), "nonsense accepted"), (ended(1), "status 1"), (ended(-6), "traceback"), (ended(-9, hung=True), "hang"),
])
def test_the_verdict_on_a_flag(found, outcome):
    assert flag_values.judge(found, "epsilon", "nan") == outcome


def test_kills_go_round_the_commands_and_reproductions_get_fewer():
    chosen = campaign.killed_scenarios(list(scenarios.SCENARIOS), 60)
    assert len(chosen) == 60
    assert "train" not in chosen
    assert 0 < chosen.count("reproduce") < chosen.count("cache") <= chosen.count("sweep")


def test_the_table_counts_what_is_right():
    results = [{"scenario": "sweep", "fell": ["while writing"], "failure": ""},
               {"scenario": "sweep", "fell": ["between files", "while writing"], "failure": "another end"}]
    found = {"kills": {"counts": kills.count(results), "failures": results[1:]}}
    assert "| kills | 3 | 1 of 2 ends equal | 1 between files, 2 while writing |" in campaign.table(found)


# A command for the campaign to kill. What it writes tells whether it was ever interrupted: the fault to be found.
_FAULTY = """import os, sys, time
from pathlib import Path
result = Path("result")
result.mkdir(exist_ok=True)
if {faulty} and (result / "begun").exists():
    (result / "end").write_text("another")
(result / "begun").write_text("")
time.sleep(0.3)
(result / "half.tmp").write_text("")
time.sleep(0.3)
os.replace(result / "half.tmp", result / "half")
time.sleep(0.3)
if not (result / "end").exists():
    (result / "end").write_text("same")
"""


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    return Children(tmp_path_factory.mktemp("said"))


@pytest.mark.slow
@pytest.mark.parametrize("faulty", [False, True])
def test_a_command_with_another_end_is_reported(tmp_path, monkeypatch, children, faulty):
    module = f"made_up_{faulty}"
    (tmp_path / f"{module}.py").write_text(_FAULTY.format(faulty=faulty))
    scenario = scenarios.Scenario("made up", module, (), "result")
    monkeypatch.syspath_prepend(tmp_path)
    unbroken = scenarios.run_unbroken(scenario, None, children, tmp_path / "unbroken")
    found = [kills.case(children, unbroken, tmp_path / "killed", f"seed {number}") for number in range(6)]
    failures = [result for result in found if result["failure"]]
    assert all(result["fell"] for result in found)
    if faulty:
        assert {result["failure"] for result in failures} == {"another end"}
        assert failures[0]["differences"] == ["end: other sha256"]
    else:
        assert not failures


@pytest.mark.slow
def test_a_miniature_campaign(tmp_path):
    """Every part once, of the commands that take least."""
    out = tmp_path / "faults.json"
    status = campaign.main(["--kills=2", "--damage=5", "--hostile=3", "--values=20", "--scenarios=cache,train",
                            f"--root={tmp_path / 'work'}", f"--out={out}"])
    found = json.loads(out.read_text())
    assert [found[part]["counts"][tried] for part, tried in
            (("kills", "ends"), ("damage", "damages"), ("hostile", "files"), ("values", "values"))] == [2, 5, 3, 20]
    assert [found[part]["failures"] for part in campaign.PARTS] == [[]] * 4
    assert status == 0
    assert {"processor", "packages", "commit"} <= set(found["kills"]["environment"])
