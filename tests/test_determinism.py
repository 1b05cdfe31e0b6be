import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import determinism
from morel_jax.determinism import avoid_wrong_sums, use_deterministic_kernels


def test_flags_are_added_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
    use_deterministic_kernels()
    use_deterministic_kernels()
    assert os.environ["XLA_FLAGS"] == "--xla_backend_optimization_level=1 --xla_gpu_deterministic_ops=true"


def test_xla_knows_the_flags():
    """XLA ends the process over a flag that it does not know."""
    script = ("from morel_jax.determinism import use_deterministic_kernels\nuse_deterministic_kernels()\n"
              "import jax\nprint(jax.numpy.ones(3).sum())")
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (0, "3.0\n"), outcome.stderr


def test_sums_of_broadcast_operands_are_right():
    """Not on jaxlib 0.11 and 0.12 without the flag that importing the package sets: garbage, another at each call."""
    @jax.jit
    def total(matrix, row):
        return jnp.sum(row[None, :, None] * jnp.broadcast_to(matrix[:, :, None], (3, 3, 2187)), axis=1)

    for _ in range(3):
        found = total(jnp.arange(1.0, 10.0).reshape(3, 3), jnp.array([1.0, 0.0, -1.0]))
        np.testing.assert_array_equal(found, np.full((3, 2187), -2.0))


@pytest.mark.parametrize(("version", "set_before", "expected"), [
    ("0.10.2", "", ""),
    ("0.11.0", "--a=1", "--a=1 --xla_cpu_experimental_ynn_fusion_type=-reduce"),
    ("0.12.0.1", "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
])
def test_wrong_sums_are_avoided_where_jaxlib_has_them(monkeypatch, version, set_before, expected):
    monkeypatch.setattr(determinism.metadata, "version", lambda name: version)
    monkeypatch.setattr(determinism, "_jax_is_in_use", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", set_before)
    avoid_wrong_sums()
    assert os.environ["XLA_FLAGS"] == expected


def test_an_import_too_late_warns(monkeypatch):
    jax.devices()
    monkeypatch.setattr(determinism.metadata, "version", lambda name: "0.11.0")
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.warns(UserWarning, match=r"JAX was used before morel_jax was imported.*ynn_fusion_type=-reduce"):
        avoid_wrong_sums()


@pytest.mark.gpu
def test_two_runs_and_a_killed_one_are_the_same_on_a_gpu(tmp_path):
    def run(workdir):
        return subprocess.Popen([sys.executable, "-m", "morel_jax.train", "--deterministic", f"--workdir={workdir}",
                                 "--config=configs/quickstart.py:resnet18,morel_mart,paper", "--config.epochs=1",
                                 "--config.validation.examples=256", "--config.checkpoint.every_seconds=1",
                                 "--progress=False"])

    for name in ("one", "two"):
        assert run(tmp_path / name).wait() == 0
    killed = run(tmp_path / "killed")
    checkpoints = tmp_path / "killed" / "checkpoints" / "last"
    while not any(path.name.isdigit() for path in checkpoints.glob("*")):
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert run(tmp_path / "killed").wait() == 0
    one, *others = (_parameters(tmp_path / name) for name in ("one", "two", "killed"))
    for other in others:
        for ours, theirs in zip(other, one, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def _parameters(workdir):
    import jax

    from morel_jax.evaluation.trained import load_variables
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_variables(workdir, "last")[1])]
