"""The command, end to end at scale ``smoke``."""
import json
import random
import shutil
import subprocess
import sys
import time

import pytest

from morel_jax.reproduction.paper import printed
from tests.commands import call
from tests.small import COMPILE_QUICKLY

CELL = "7/cifar10/resnet18/white-box/morel_loat/pgd20/last"


def reproduce(*arguments):
    outcome = subprocess.run([sys.executable, "-m", "morel_jax.reproduce", "--noprogress", "--scale=smoke", *arguments],
                             capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def report_files(root):
    return {path.name: path.read_bytes() for path in (root / "smoke-paper" / "report").iterdir()}


@pytest.fixture
def cached(monkeypatch, tmp_path_factory):
    """Compiled programs of one command for the next; with some optimisation, which AutoAttack runs long enough for."""
    monkeypatch.setenv("XLA_FLAGS", f"{COMPILE_QUICKLY} --xla_backend_optimization_level=1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "reproduced"))


@pytest.mark.slow
def test_all_at_scale_smoke(tmp_path, cached):
    """Every table and figure, filled with what was measured."""
    said = json.loads(reproduce("--all", f"--root={tmp_path}"))
    assert said == {"report": str(tmp_path / "smoke-paper" / "report" / "report.html"), "waiting": 0}
    report = json.loads(report_files(tmp_path)["report.json"])
    cells = [cell for table in report["tables"] for row in table["rows"] for cell in row["cells"]]
    assert len(cells) == len(printed())
    assert all(0 <= cell["ours"]["mean"] <= 100 and cell["ours"]["count"] == 2 for cell in cells)
    assert set(report["figures"]) == {"2", "3", "4"}
    assert all(len(curve) == 3 for curve in report["figures"]["4"]["curves"].values())
    assert all(report["figures"]["3"].values())
    assert all(claim["ours"]["measured"] == claim["ours"]["pairs"] for claim in report["claims"])
    # Nothing is left, and asking again changes nothing.
    before = report_files(tmp_path)
    assert "nothing is missing" in reproduce("--all", f"--root={tmp_path}", "--dry_run")
    reproduce("--all", f"--root={tmp_path}")
    assert report_files(tmp_path) == before
    explained = reproduce(f"--explain={CELL}", f"--root={tmp_path}")
    assert "configs/smoke.py:convnet_small,morel_loat,paper" in explained
    assert explained.count("  commit   ") == 2


@pytest.mark.slow
def test_shards_and_kills_end_in_the_report_of_one_run(tmp_path, cached):
    request = ("--table=8", "--figure=3")
    reproduce(*request, f"--root={tmp_path / 'whole'}")
    moment = random.Random(0)
    for number in (1, 2):
        command = [sys.executable, "-m", "morel_jax.reproduce", "--noprogress", "--scale=smoke", *request,
                   f"--root={tmp_path / f'part{number}'}", f"--shard={number}/2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment.uniform(5, 15))
        process.kill()
        process.wait()
        reproduce(*request, f"--root={tmp_path / f'part{number}'}", f"--shard={number}/2")
        shutil.copytree(tmp_path / f"part{number}", tmp_path / "merged", dirs_exist_ok=True)
    assert json.loads(reproduce(*request, f"--root={tmp_path / 'merged'}"))["waiting"] == 0
    assert report_files(tmp_path / "merged") == report_files(tmp_path / "whole")


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "a reproduction must be told what: --table=N, --figure=N, --all or --study."),
    (["--table=1", "--shard=3/2"], "--shard must be I/N with 1 <= I <= N; got '3/2'."),
    (["--explain=1/mnist"], "The nearest names begin with 1/cifar10, 1/cifar100."),
    (["--table=1", "--configs=nowhere"], "configs must be a folder with smoke.py in it"),
])
def test_wrong_requests_are_one_line(monkeypatch, tmp_path, arguments, message):
    status, _, error = call(monkeypatch, "reproduce", "--scale=smoke", f"--root={tmp_path}", *arguments)
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    assert message in line
