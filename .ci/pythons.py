"""Prints the oldest and the newest CPython of this machine that the package supports, a path per line.

Looks on the PATH and, where there is one, in pyenv. A version of which only a launcher is found that does not start is
an error: a machine that has two versions is to test both.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)  # requires-python in pyproject.toml


def version_of(python):
    """(major, minor) of an interpreter; None where it does not start or cannot make virtual environments."""
    try:
        found = subprocess.run([python, "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"],
                               capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return tuple(map(int, found.stdout.split())) if found.returncode == 0 else None


def candidates(path, pyenv_root):
    """Files that may be interpreters of a supported version, the PATH's first."""
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    if pyenv_root:
        folders += sorted(Path(pyenv_root).glob("versions/*/bin"))
    for folder in folders:
        for file in sorted(folder.glob("python3.*")) if folder.is_dir() else []:
            name = re.fullmatch(r"python3\.(\d+)", file.name)
            if name and (3, int(name[1])) >= OLDEST:
                yield (3, int(name[1])), str(file)


def find(path, pyenv_root):
    """{version: interpreter} of all that start.

    Raises:
        SystemExit: a version has files of its name, and none of them starts.
    """
    found, named = {}, set()
    for version, file in candidates(path, pyenv_root):
        named.add(version)
        if version not in found and version_of(file) == version:
            found[version] = file
    missing = sorted(named - set(found))
    if missing or not found:
        raise SystemExit("no Python starts that is called "
                         + ", ".join("python{}.{}".format(*version) for version in missing or [OLDEST]))
    return found


if __name__ == "__main__":
    root = os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"
    pythons = find(os.environ["PATH"], root)
    print("Pythons here:", *pythons.values(), file=sys.stderr)
    for chosen in sorted({min(pythons), max(pythons)}):
        print(pythons[chosen])
