"""What is handed on: the source distribution and the wheel that is built from it."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, built from a copy of what a checkout has at its top."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, source)
    for name in ("morel_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    outcome = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source],
                             capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return folder / "dist"


def test_the_wheel_has_every_file_of_the_package_and_no_other(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert archive.read(entry_points).decode().split() == ["[console_scripts]", "morel", "=",
                                                               "morel_jax.__main__:run"]
    there = {path.relative_to(ROOT).as_posix() for folder in (ROOT / "morel_jax", ROOT / "morel_jax" / "configs")
             for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == there
    assert {"morel_jax/py.typed", "morel_jax/configs/cifar10.py", "morel_jax/reproduction/tables.csv"} <= names


def test_the_index_takes_both(built):
    outcome = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()],
                             capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout
    assert outcome.stdout.count("PASSED") == 2


def test_a_shipped_config_by_name_in_an_empty_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    outcome = subprocess.run(
        [sys.executable, "-m", "morel_jax", "train", "--config=cifar10:resnet18,morel_mart", "--config.epochs=0",
         "--workdir=run"], cwd=tmp_path / "empty", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")})
    assert (outcome.returncode, outcome.stderr) == (2, "error: config.epochs must be at least 1; got 0.\n")
    assert not any((tmp_path / "empty").iterdir())
