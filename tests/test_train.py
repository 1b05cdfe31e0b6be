import json
import os
import subprocess
import sys

import pytest

from morel_jax import data
from tests.commands import call

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def train(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "morel_jax.train", *arguments], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | environment)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config.batch_size=0"], "error: config.batch_size must be at least 1; got 0."),
    (["--config.morel.augmentation=0.5"], "error: config.morel.preference[0] must be"),
    (["--config.data.name=imagenette"], "imagenette"),
    (["--config.mesh.data=3"], "error: config.mesh asks for data * fsdp = 3 * 1 = 3 devices; there are 1."),
])
def test_a_wrong_config_is_one_line(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", "--config=configs/quickstart.py", *arguments,
                            f"--workdir={tmp_path}/run")
    assert status == 2
    assert message in error
    assert "Traceback" not in error


def test_a_part_of_what_joins_processes_is_one_line(tmp_path):
    outcome = train("--config=configs/quickstart.py", "--coordinator=localhost:1", "--process_id=0",
                    f"--workdir={tmp_path}/run")
    assert outcome.returncode == 2
    assert "error: coordinator, process_id and num_processes must be given" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config=configs/quickstart.py"], "--workdir"),
    (["--config=configs/quickstart.py", "--workdir=x", "extra"], "extra"),
    (["--config=configs/quickstart.py:resnet18,sgd", "--workdir=x"], "config.method must be one of"),
    (["--config=configs/quickstart.py", "--workdir=x", "--config.batchsize=1"], "batch_size"),
])
def test_wrong_flags(monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_offline_and_without_data(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", "--config=configs/cifar10.py", f"--workdir={tmp_path}/run",
                            f"--config.data.cache_dir={tmp_path}", f"--config.data.archive_dir={tmp_path}")
    assert status == 2
    assert "cifar-10-binary.tar.gz" in error
    assert "http" in error
    assert "archive_dir" in error


@pytest.mark.parametrize("workdir", ["/proc/run", "/dev/null/run"])
def test_a_workdir_that_cannot_be_written_is_one_line(monkeypatch, workdir):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", "--config=configs/quickstart.py", f"--workdir={workdir}")
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith(f"error: workdir must be a folder that can be written; got {workdir}: ")


def test_a_workdir_that_is_no_local_path(monkeypatch):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", "--config=configs/quickstart.py", "--workdir=gs://bucket/run")
    assert (status, error) == (
        2, "error: --workdir must be a path on a mounted file system, not a URL; got 'gs://bucket/run'.\n")


@pytest.mark.slow
def test_command_trains_on_the_embedded_images(tmp_path):
    arguments = ["--config=configs/quickstart.py", "--config.epochs=1", "--config.batch_size=100",
                 "--config.attack.num_steps=1", "--config.validation.split=holdout", "--config.validation.holdout=9000",
                 "--config.validation.examples=100", "--config.validation.batch_size=100", f"--workdir={tmp_path}"]
    outcome = train(*arguments)
    assert outcome.returncode == 0, outcome.stderr
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == (len(data.load("fashion_mnist_small").train.labels) - 9000) // 100
    assert "done" in train(*arguments).stderr
    refused = train(*arguments, "--config.seed=5")
    assert refused.returncode == 2
    assert "config.seed: 0 there, 5 given" in refused.stderr
