import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from morel_jax import builders, command, losses
from morel_jax.configuration import check, defaults
from morel_jax.methods import METHODS, Views
from tests.commands import call

CONFIG = "--config=configs/quickstart.py"
TRAIN = ("train", CONFIG, "--workdir={folder}/run")
SWEEP = ("sweep", CONFIG, "--workdir={folder}/run")
REPRODUCE = ("reproduce", "--root={folder}/run", "--scale=smoke")

# What is given beside a command's usual flags, and a part of the one line that must come of it.
WRONG = [(TRAIN, *one) for one in (
    ("--config.lr=0.1", "config.lr is not a field of this library's configs; nearest: config.optimizer.learning_rate."),
    ("--config.optimizer.lr=0.1", "nearest: config.optimizer.learning_rate."),
    ("--config.batchsize=1", "nearest: config.batch_size, config.validation.batch_size."),
    ("--noconfig.data.flipp", "nearest: config.data.flip"),
    ("--config.epochs.x=1", "config.epochs.x is not a field"),
    ("--config.optimizer.drop_epochs[0]=7", "nearest: config.optimizer.drop_epochs."),
    ("--config.=1", "is not a field"),
    ("--config.optimizer=0.1", "config.optimizer"),
    ("--config.batch_size=1e3", "--config.batch_size=1e3"),
    ("--config.batch_size=", "--config.batch_size="),
    ("--config.epochs=99999999999999999999", "config.epochs must be less than 2**31 in size"),
    ("--config.loss.beta=nan", "config.loss.beta must be finite"),
    ("--config.loss.beta=1e39", "config.loss.beta must be finite, and at most 3.4e38"),
    ("--config.seed=4294967296", "config.seed must be in 0 .. 4294967295"),
    ("--config.model.name=wide_resnet99999999994_10", "wide_resnet's depth must be 6n + 4"),
    ("--config.model.name=lenet", "model name must be one of"),
    ("--config.data.cache_dir=gs://bucket/cache", "config.data.cache_dir must be a path on a mounted file system"),
    ("--config.batch_size=20000", "config.batch_size must be at most the number of training images, 10000"),
    ("--config.data.crop_padding=100000000", "config.data.crop_padding must be less than the images' smaller side, 28"),
    ("--config.validation.split=holdout --config.validation.holdout=10000", "holdout must be less than"),
    ("--config.data.name=imagenette", "Unknown data set 'imagenette'"),
    ("--config.mesh.data=1000", "config.mesh asks for"),
    ("--config=", "--config must be a Python file with get_config()"),
    ("--config=configs", "--config must be a Python file with get_config()"),
    ("--config=configs/missing.py", "got 'configs/missing.py', and there is no such file"),
    ("--config=configs/small.py:a,b,c,d,e", 'a config takes "architecture,method,variant,threat"'),
    ("--config=configs/small.py:resnet18,sgd", "config.method must be one of"),
    ("--workdir=", "--workdir must name a path; got an empty string"),
    ("--workdir=s3://bucket/run", "--workdir must be a path on a mounted file system, not a URL"),
    ("--workdir=a\\b", "--workdir must not contain a backslash"),
    ("--process_id=3", "--process_id and --num_processes must come with --coordinator"),
    ("--num_processes=2", "--process_id and --num_processes must come with --coordinator"),
    ("--process_id=-1", "--process_id=-1"),
    ("--coordinator=", "coordinator must be host:port; got ''"),
    ("--coordinator=localhost", "coordinator must be host:port; got 'localhost'"),
    ("--coordinator=localhost:99999", "coordinator must be host:port"),
    ("--num_processes=0", "--num_processes=0"),
    ("--num_processes=x", "--num_processes=x"),
    ("--progress=maybe", "--progress=maybe"),
    ("--dry_run=2", "--dry_run=2"),
    ("--profile=-1", "--profile=-1"),
    ("--flagfile=missing", "missing"),
    ("--learning_rate=1", "Unknown command line flag 'learning_rate'"),
    ("more", "arguments that no flag takes: more"),
)] + [(SWEEP, *one) for one in (
    ("", "a sweep must be given by --sweep or by --sweep_file"),
    ("--sweep=", "FIELD:VALUE"),
    ("--sweep_file=", "--sweep_file must name a path"),
    ("--sweep_file=missing.json", "missing.json"),
    ("--sweep_file=configs", "configs"),
    ("--sweep=seed:0..299999999:300000000", "at most 10000 members; got 300000000"),
    ("--sweep=seed:0..9999:10000 --sweep=loss.beta:1..2:10000", "at most 10000 members; got 100000000"),
    ("--sweep=seed:" + "(" * 5000, "must be FIELD:VALUE"),
    ("--sweep=seed:" + "-" * 5000 + "1", "must be FIELD:VALUE"),
    ("--sweep=seed:{[]:1}", "must be FIELD:VALUE"),
    ("--sweep=lr:1,2", "config.lr is not a field of this library's configs; nearest: config.optimizer.learning_rate."),
    ("--sweep=optimizer.drop_factors:(-1.0,),", "config.optimizer.drop_factors must be 0 or more"),
    ("--sweep=loss.beta:1e39", "config.loss.beta must be finite"),
    ("--sweep=loss.beta:" + "9" * 400, "config.loss.beta must be finite"),
    ("--sweep=seed:4294967296", "config.seed must be in 0"),
    ("--sweep=optimizer.drop_epochs:" + str(tuple(range(1, 101))).replace(" ", ""), "drop_factors must have as many"),
    ("--sweep=seed:1,2 --config.data.crop_padding=28", "config.data.crop_padding must be less than"),
    ("--sweep=seed:1,2 --mode=fast", "--mode=fast"),
    ("--sweep=seed:1,2 --workdir=", "--workdir must name a path"),
    ("--sweep=seed:1,2 --config.nothing=1", "config.nothing is not a field"),
)] + [(("quickstart",), *one) for one in (
    ("--workdir=", "--workdir must name a path"),
    ("--workdir=gs://x", "--workdir must be a path on a mounted file system"),
    ("--workdir={folder}/run --config=missing.py", "got 'missing.py', and there is no such file"),
    ("--workdir={folder}/run --config.epoch=1", "nearest: config.epochs"),
    ("--workdir={folder}/run --config.validation.epsilon=100", "config.validation.epsilon must be at least 1e-06"),
)] + [(REPRODUCE, *one) for one in (
    ("", "a reproduction must be told what"),
    ("--table=0", "--table=0"),
    ("--table=9", "--table must be one of 1, 2, 3, 4, 5, 6, 7, 8; got 9."),
    ("--table=x", "--table=x"),
    ("--figure=1", "--figure=1"),
    ("--table=1 --scale=huge", "--scale=huge"),
    ("--table=1 --variant=mine", "--variant=mine"),
    ("--table=1 --root=", "--root must name a path"),
    ("--table=1 --root=gs://x", "--root must be a path on a mounted file system"),
    ("--table=1 --configs=missing", "configs must be a folder with smoke.py in it"),
    ("--table=1 --configs=", "--configs must name a path"),
    ("--table=1 --shard=0/2", "--shard must be I/N"),
    ("--table=1 --shard=3/2", "--shard must be I/N"),
    ("--table=1 --shard=1", "--shard must be I/N"),
    ("--table=1 --shard=a/b", "--shard must be I/N"),
    ("--table=1 --shard=", "--shard must be I/N"),
    ("--table=1 --data_dir=gs://x", "config.data.data_dir must be a path on a mounted file system"),
    ("--explain=", "a cell must be TABLE/DATASET"),
    ("--explain=1/cifar10", "a cell must be TABLE/DATASET"),
    ("--table=1 --explain=9/x", "a cell must be TABLE/DATASET"),
)]


@pytest.mark.parametrize(("usual", "given", "message"), WRONG)
def test_what_is_wrong_is_one_line_and_status_2(usual, given, message, monkeypatch, tmp_path):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    status, out, err = call(monkeypatch, *(one.format(folder=tmp_path) for one in usual),
                            *given.replace("{folder}", str(tmp_path)).split(" ") if given else ())
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert len(line) < 1000
    assert not any(tmp_path.iterdir())  # Nothing was written.


@pytest.mark.parametrize(("content", "message"), [
    ("def get_config(:\n", "SyntaxError: invalid syntax (config.py, line 1)"),
    ("import nothing_of_that_name\n", "config.py, line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ("def get_config(spec=''):\n    return 1 / 0\n", "config.py, line 2: ZeroDivisionError: division by zero"),
    ("def get_config(a, b):\n    return a\n", "TypeError: get_config() missing 2 required positional arguments"),
    ("def get_config(spec=''):\n    raise ValueError('mine')\n", "config.py, line 2: ValueError: mine"),
    ("def get_config(spec=''):\n    raise OSError('mine')\n", "config.py, line 2: OSError: mine"),
    ("def get_config(spec=''):\n    return {'seed': 1}\n", "must return a ConfigDict; got dict"),
    ("def get_config(spec=''):\n    pass\n", "must return a ConfigDict; got NoneType"),
    ("seed = 1\n", "config.py must have a function get_config(spec=''); it has none"),
    ("\0", "SyntaxError: source code string cannot contain null bytes"),
])
def test_a_config_file_that_fails_is_named_with_its_line(content, message, monkeypatch, tmp_path):
    (tmp_path / "config.py").write_text(content)
    status, _, err = call(monkeypatch, "train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run")
    assert status == 2
    (line,) = err.splitlines()
    assert f"error: {tmp_path}/" in line or "get_config() in" in line
    assert message in line
    assert not (tmp_path / "run").exists()


def test_this_librarys_errors_are_one_line(capsys):
    config = defaults()
    config.epochs = 0
    assert command.exit_status(lambda: check(config)) == 2
    assert capsys.readouterr().err == "error: config.epochs must be at least 1; got 0.\n"


def _of_the_callers_own():
    raise ValueError("the caller's own")


def _own_loss(views, labels, hparams):
    return np.reshape(views.logits, (3, 3))  # NumPy raises it; the mistake is the caller's.


def _library_called_wrongly_by_own_loss(views, labels, hparams):
    return losses.cross_entropy(views.logits, labels[:1])


def _with_loss(loss):
    config = defaults()
    config.method = "standard"
    views = Views(np.zeros((2, 10), np.float32))
    return lambda: METHODS[config.method].objective(config, loss)(views, np.zeros(2, np.int32), None)


@pytest.mark.parametrize(("work", "message"), [
    (_of_the_callers_own, "the caller's own"),
    (_with_loss(lambda *_: _of_the_callers_own()), "the caller's own"),
    (_with_loss(_own_loss), "reshape"),
    (_with_loss(_library_called_wrongly_by_own_loss), "labels"),
])
def test_the_callers_own_errors_keep_their_traceback(work, message):
    with pytest.raises(ValueError, match=message):
        command.exit_status(work)


def test_an_installed_packages_error_within_this_library_is_one_line(capsys, monkeypatch):
    def missing():
        builders.np.load("missing.npy")

    # As if it stood in this library.
    monkeypatch.setattr(command, "_PACKAGE", os.path.dirname(os.path.abspath(__file__)) + os.sep)
    assert command.exit_status(missing) == 2
    assert "missing.npy" in capsys.readouterr().err


def test_a_platform_that_is_not_there_is_one_line(capsys, monkeypatch):
    from morel_jax import sharding

    def absent():
        assert False  # noqa: B011, PT015 (As JAX has it for JAX_PLATFORMS=cuda without the plugin.)

    monkeypatch.setattr(sharding.jax, "devices", absent)
    assert command.exit_status(sharding.jax_devices) == 2
    assert capsys.readouterr().err.startswith("error: JAX_PLATFORMS must name platforms that this machine and this JAX")
    assert command.exit_status(absent) == 2  # Wherever it is found out.
    monkeypatch.undo()
    with pytest.raises(AssertionError):  # Where the devices are there, it is another one.
        command.exit_status(absent)


@pytest.mark.parametrize("usual", [TRAIN, (*TRAIN, "--dry_run"), (*SWEEP, "--sweep=seed:1,2")])
def test_without_compiling_there_is_no_run(usual, monkeypatch, tmp_path):
    with jax.disable_jit():
        status, _, err = call(monkeypatch, *(one.format(folder=tmp_path) for one in usual))
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: JAX_DISABLE_JIT (jax_disable_jit) must be off for a run")
    assert not any(tmp_path.iterdir())


def test_importing_a_command_leaves_no_flags(monkeypatch):
    """Of the helper: what it imports for one test is not there for the next."""
    call(monkeypatch, "train")
    assert "morel_jax.train" not in sys.modules


def test_help_lists_the_configs_fields():
    outcome = subprocess.run([sys.executable, "-m", "morel_jax.train", "--help=config"], text=True, capture_output=True)
    assert outcome.returncode == 0, outcome.stderr
    assert "optimizer.learning_rate" in outcome.stdout
    assert "model.precision" in outcome.stdout
