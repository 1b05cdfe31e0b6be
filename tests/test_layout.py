"""What holds for the repository as a whole."""
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "morel_jax").rglob("*.py"))


def test_imports_go_down_the_floors():
    outcome = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout


def test_attacks_and_losses_know_no_flax_modules():
    for module in MODULES:
        if module.parent.name in ("attacks", "losses"):
            assert "linen" not in module.read_text(), module


@pytest.mark.parametrize(
    "floor", ["attacks", "data", "evaluation", "gradients", "losses", "models", "reporting", "reproduction",
              "training"])
def test_tests_mirror_the_package(floor):
    assert list((ROOT / "tests" / floor).glob("test_*.py"))


def test_no_module_is_long():
    assert [str(module) for module in MODULES if len(module.read_text().splitlines()) > 400] == []


def test_the_version_is_the_same_wherever_it_stands():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
