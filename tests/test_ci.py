"""The oldest and the newest Python are found, or the run fails."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("pythons", Path(__file__).parent.parent / ".ci" / "pythons.py")
pythons = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pythons)


def interpreter(folder, version, works=True):
    """A file called python3.x that answers like one, or fails as a launcher without its Python does."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"python3.{version}"
    file.write_text(f"#!/bin/sh\necho 3 {version}\nexit {0 if works else 127}\n")
    file.chmod(0o755)
    return str(file)


def test_the_path_comes_before_pyenv_and_old_versions_do_not_count(tmp_path):
    first = interpreter(tmp_path / "bin", 11)
    interpreter(tmp_path / "pyenv" / "versions" / "3.11.7" / "bin", 11)
    interpreter(tmp_path / "bin", 10)
    newest = interpreter(tmp_path / "pyenv" / "versions" / "3.13.0" / "bin", 13)
    assert pythons.find(str(tmp_path / "bin"), tmp_path / "pyenv") == {(3, 11): first, (3, 13): newest}


def test_a_launcher_that_does_not_start_is_replaced_or_reported(tmp_path):
    interpreter(tmp_path / "shims", 13, works=False)
    interpreter(tmp_path / "shims", 11)
    with pytest.raises(SystemExit, match=r"no Python starts that is called python3\.13"):
        pythons.find(str(tmp_path / "shims"), None)
    real = interpreter(tmp_path / "pyenv" / "versions" / "3.13.0" / "bin", 13)
    assert pythons.find(str(tmp_path / "shims"), tmp_path / "pyenv")[3, 13] == real


def test_no_python_at_all(tmp_path):
    with pytest.raises(SystemExit, match=r"python3\.11"):
        pythons.find(str(tmp_path), None)


def test_the_oldest_version_is_the_packages():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'requires-python = ">={}.{}"'.format(*pythons.OLDEST) in text


def test_prints_paths_of_interpreters_that_start():
    found = subprocess.run([sys.executable, pythons.__file__], text=True, capture_output=True, check=True)
    versions = [pythons.version_of(path) for path in found.stdout.splitlines()]
    assert versions == sorted(set(versions))
    assert 1 <= len(versions) <= 2
    assert min(versions) >= pythons.OLDEST
    assert all(os.access(path, os.X_OK) for path in found.stdout.splitlines())
