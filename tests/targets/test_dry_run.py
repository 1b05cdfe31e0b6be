import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from morel_jax.targets import dry_run, dry_run_population
from morel_jax.targets.dry_run import _command_buffers
from tests.commands import call
from tests.small import small_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    return dry_run(small_config(attack__num_steps=3))


@pytest.fixture(scope="module")
def plain():
    return dry_run(small_config("standard"))


@pytest.mark.slow
def test_parameters_and_flops_by_hand(found):
    conv1, conv2, hidden, head = 16 * 16, 16 * 16 * 32, 49 * 32 * 128, 128 * 10
    assert found.classifier_parameters == conv1 + conv2 + 2 * (16 + 32) + hidden + 128 + head + 10
    projection, qkv, out = 128 * 128, 128 * 384, 128 * 128
    assert found.embedding_parameters == projection + 128 + 2 * 128 + qkv + 384 + out + 128
    forward = 196 * conv1 + 49 * conv2 + hidden + head
    # Three gradients with respect to images, and two with respect to parameters that need none of the first layer's.
    network = 3 * 2 * forward + 2 * (3 * forward - 196 * conv1)
    pairs = 16 * 128 * 2  # Of each row with the 16 of the batch: scores and mixture.
    embedding = 2 * 3 * (projection + qkv + out + pairs)
    contrastive = 3 * 2 * (2 * 16) * 128
    np.testing.assert_allclose(found.flops, 2 * 16 * (network + embedding + contrastive), rtol=0.01)


def test_memory(found):
    # Images and labels, the batches' places, and parameters with their momentum, all on one device.
    data = 10_000 * (28 * 28 + 4) + 2 * 4 * 625 * 16
    state = 4 * 2 * (found.classifier_parameters + found.embedding_parameters)
    np.testing.assert_allclose(found.arguments, data + state, rtol=0.01)
    np.testing.assert_allclose(found.aliased, state, rtol=0.01)
    assert found.temporary > 2 * 16 * 14 * 14 * 16 * 4
    assert found.peak == found.arguments + found.outputs + found.temporary - found.aliased
    # Every operation of the update reads and writes what it updates, and the data set is sliced, not read.
    assert state < found.bytes_accessed < 50 * state
    if jax.device_count() == 1:
        assert found.collectives == ()


def test_operations(found):
    assert found.kernels.step == sum(found.kernels.by_kind.values())
    assert 0 < 3 * found.kernels.attack_iteration < found.kernels.step
    assert (found.target, found.command_buffers, found.chip, found.estimate) == (None, None, None, None)
    assert found.compile_seconds > 0


def test_a_step_without_an_attack_has_no_iteration(plain):
    assert plain.kernels.attack_iteration is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "vmapped"])
def test_a_population_is_that_many_runs(found, mode):
    both = dry_run_population(small_config(attack__num_steps=3), [{"seed": 1}, {"seed": 2}], mode)
    assert both.title.endswith("batch 16, 2 members")
    assert (both.flops, both.batch_size) == (2 * found.flops, 2 * found.batch_size)
    np.testing.assert_allclose(both.aliased, 2 * found.aliased, rtol=0.01)
    one = dry_run_population(small_config(attack__num_steps=3), [{"seed": 1}], mode)
    assert one.kernels == found.kernels


LAUNCHES = """\
000: kCommandBuffer [source       | next=002 (1)]
    001: kCopy         [source | sink] kCopy
002: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    003: kCustomKernel [source | sink] loop_compare grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source | sink]
        004: kCustomKernel [source | sink] loop_add
        005: kWhile [source | sink]
          body:
            006: kCustomKernel [source | sink] loop_sine
    007: kConvolution [source | sink] kConvolution
008: kCopy [source | sink] kCopy
"""


def test_command_buffers_and_what_is_outside(tmp_path):
    assert _command_buffers(tmp_path) is None
    (tmp_path / "module_0001.jit_f.thunk_sequence.txt").write_text("000: kCopy [source | sink] kCopy\n" * 99)
    assert _command_buffers(tmp_path) == {"count": 0, "operations_outside": 99}
    (tmp_path / "module_0001.jit_f.thunk_sequence_after_thunk_passes.txt").write_text(LAUNCHES)
    assert _command_buffers(tmp_path) == {"count": 2, "operations_outside": 3}


def test_extra_images_count(plain, tmp_path):
    images = np.zeros((5000, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "extra.npz", image=images, label=np.zeros(5000, int))
    more = dry_run(small_config("standard", data__extra=str(tmp_path / "extra.npz"), data__extra_share=0.25))
    assert more.arguments - plain.arguments == pytest.approx(images.nbytes + 5000 * 4, rel=0.01)


def test_a_wrong_config():
    with pytest.raises(ValueError, match=r"config\.batch_size must be at most the number of training images, 10000"):
        dry_run(small_config(batch_size=20_000))
    with pytest.raises(ValueError, match="Unknown data set 'imagenette'"):
        dry_run(small_config(data__name="imagenette"))


def command(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "morel_jax.train", *arguments], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | environment)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_command(devices, tmp_path):
    before = sorted(ROOT.rglob("*.json"))
    outcome = command("--config=configs/cifar10.py:resnet8,trades", "--config.batch_size=16", "--config.accumulate=2",
                      "--config.model.remat=True", "--dry_run", JAX_NUM_CPU_DEVICES=str(devices), HOME=str(tmp_path))
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0] == "resnet8, trades, cifar10 32x32x3, batch 16"
    assert lines[1].split("  ")[-1].strip() == f"{devices} cpu (mesh: data {devices} x fsdp 1)"
    assert lines[2].split() == ["parameters", "78,042", "classifier"]
    assert lines[4].startswith("operations")
    assert outcome.stdout.count("MiB") >= 5
    assert ("collectives     none" in outcome.stdout) == (devices == 1)
    assert ("exchanges of 8 devices" in outcome.stdout) == (devices == 8)
    assert sorted(ROOT.rglob("*.json")) == before
    assert not list(tmp_path.iterdir())


def test_command_errors(monkeypatch):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", "--config=configs/quickstart.py", "--dry_run", "--config.mesh.data=3")
    assert status == 2
    assert error.startswith("error: config.mesh asks for data * fsdp = 3 * 1 = 3 devices; there are")
