import csv
import os
import subprocess
import sys

import pytest

from tests.commands import call

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def sweep(*arguments):
    return subprocess.run([sys.executable, "-m", "morel_jax.sweep", "--config=configs/quickstart.py", *arguments],
                          cwd=ROOT, text=True, capture_output=True)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "error: a sweep must be given by --sweep or by --sweep_file"),
    (["--sweep=seed:1,2", "--sweep_file=x.json"], "error: a sweep must be given by --sweep or by --sweep_file"),
    (["--sweep=batch_size:8,16"], "error: config.batch_size must be the same for all members"),
    (["--sweep=preference:0..1:3"], "error: config.morel.preference[0] must"),
    (["--sweep_file=missing.json"], "missing.json"),
    (["--sweep=seed:1,2", "--mode=fast"], "sequential"),
])
def test_what_is_wrong_is_one_line(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "sweep", "--config=configs/quickstart.py", *arguments,
                            f"--workdir={tmp_path}/sweep")
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_the_command_end_to_end(tmp_path):
    arguments = ["--config.epochs=1", "--config.batch_size=100", "--config.attack.num_steps=1",
                 "--config.validation.split=holdout", "--config.validation.holdout=9000",
                 "--config.validation.examples=100", "--config.validation.batch_size=100", f"--workdir={tmp_path}",
                 "--sweep=preference:0.25,0.75", "--sweep=optimizer.learning_rate:0.05,1e38"]
    found = sweep(*arguments)
    assert found.returncode == 3, found.stderr
    names = [f"preference={k},learning_rate={rate}" for k in ("0.25_0.75", "0.75_0.25") for rate in (0.05, 1e38)]
    assert f"not finite in 2 of 4 members: {names[1]}; {names[3]}" in found.stderr
    assert (tmp_path / "sweep.md").read_text() in found.stdout
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["member"] for row in rows] == names
    assert [row["diverged_at_step"] != "" for row in rows] == [False, True, False, True]
    for name in (names[0], names[2]):
        judged = subprocess.run([sys.executable, "-m", "morel_jax.evaluate", f"--workdir={tmp_path / name}",
                                 "--attacks=fgsm", "--examples=20", "--report_card=0"], cwd=ROOT, text=True,
                                capture_output=True)
        assert judged.returncode == 0, judged.stderr
