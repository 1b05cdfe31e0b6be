import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from morel_jax.targets import devices
from tests.commands import call

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", ["b200", "h100:", "h100:0", "h100:8x", "h100:1x2x3x4", "tpu_v5e:-1", "", "H100"])
def test_an_unknown_target_lists_the_known_ones(target):
    with pytest.raises(ValueError, match=r"--target must be one of h100, a100, .*, tpu_v6e, and after a colon"):
        devices.open_target(target)


def test_a_compiler_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = ("train", "--config=configs/quickstart.py", "--dry_run", "--target=h100")
    monkeypatch.chdir(ROOT)
    status, out, error = call(monkeypatch, *arguments)
    assert (status, out) == (2, "")
    assert error == ("error: --target needs XLA's compiler for cuda, which is not installed: "
                     "pip install 'morel_jax[aot]'\n")


@pytest.mark.parametrize("flags", [["--target=h100"], ["--json"], ["--target=h100", "--json"]])
def test_flags_of_a_dry_run_come_with_it(flags, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    status, _, error = call(monkeypatch, "train", "--config=configs/quickstart.py", f"--workdir={tmp_path}", *flags)
    assert status == 2
    assert "Flags --target and --json must come with --dry_run." in error


def test_peaks_follow_from_units_and_clock():
    """Of a GPU: each unit does a multiply-add per clock."""
    for name, chip in devices.CHIPS.items():
        assert chip.source.startswith("https://")
        if chip.platform == "cuda":
            facts = chip.xla
            peak = 2 * facts["core_count"] * facts["fpus_per_core"] * facts["clock_rate_ghz"] * 1e9
            assert chip.peaks["float32"] == pytest.approx(peak, rel=0.01), name


def opened(*targets):
    """[number of devices, kind, hosts] of each target, in a fresh process."""
    code = ("import json, sys; from morel_jax.targets.devices import open_target, chip_of\n"
            "for target in sys.argv[1:]:\n"
            "    found = open_target(target)\n"
            "    print(json.dumps([len(found), chip_of(found[0]).kind, len({one.process_index for one in found})]))")
    outcome = subprocess.run([sys.executable, "-c", code, *targets], text=True, capture_output=True, check=True,
                             cwd=ROOT, env={key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"})
    assert outcome.stderr == ""
    return [json.loads(line) for line in outcome.stdout.splitlines()]


@pytest.mark.targets
def test_every_chip_opens_without_a_word():
    assert opened(*devices.CHIPS, "h100:8", "h100:2x8", "tpu_v4:2x2x2", "tpu_v6e:4x4") == [
        [4 if name in ("tpu_v4", "tpu_v5p") else 1, chip.kind, 1] for name, chip in devices.CHIPS.items()] + [
        [8, "NVIDIA H100 80GB HBM3", 1], [16, "NVIDIA H100 80GB HBM3", 2], [8, "TPU v4", 2], [16, "TPU v6 lite", 4]]


def command(name, *arguments):
    outcome = subprocess.run([sys.executable, "-m", f"morel_jax.{name}", "--config=configs/quickstart.py", "--dry_run",
                              *arguments], cwd=ROOT, text=True, capture_output=True)
    return outcome.returncode, outcome.stdout, outcome.stderr


@pytest.mark.targets
@pytest.mark.parametrize("arguments", [
    ("train", "--config.batch_size=16", "--target=h100:2x2"),
    ("sweep", "--sweep=preference:0.2,0.8", "--target=a100"),
    ("evaluate", "--attacks=pgd20,square", "--target=h100"),
    ("train", "--config.batch_size=16", "--target=tpu_v5e:2x2"),
])
def test_commands_print_one_json_object(arguments):
    status, out, err = command(*arguments, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["kernels"]["step"] == sum(found["kernels"]["by_kind"].values()) > 0
    assert found["target"] == arguments[-1].partition("=")[2]
    assert found["temporary_bytes"] < found["peak_bytes"] < found["memory_bytes"]
    assert found["fits"] is True
    assert min(found["flops"], found["compile_seconds"], found["estimate"]["seconds"]) > 0
    assert bool(found["collectives"]) == (found["devices"]["count"] > 1)
    if "h100:2x2" in arguments[-1]:
        assert found["kernels"]["attack_iteration"] > 0
        assert found["command_buffers"]["count"] > 0
    if arguments[0] == "evaluate":
        assert set(found["programs"]) == {"pgd20", "square"}


@pytest.mark.targets
@pytest.mark.parametrize(("target", "line"), [
    ("tpu_v5e:2x3", "error: --target must give a grid that tpu_v5e comes in, such as 1x1; got 'tpu_v5e:2x3': "),
    ("h100:1x2x3", "error: --target must give GPUs or HOSTSxGPUS after h100:; got 'h100:1x2x3'."),
    ("h100:3", "error: config.batch_size must be a multiple of the 3 devices of the mesh"),
])
def test_wrong_targets_are_one_line(target, line):
    status, out, err = command("train", f"--target={target}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(line)
