"""Commands in README and docs: their flags, configs and fields exist."""
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from morel_jax.__main__ import COMMANDS, documentation
from morel_jax.configuration import FIELDS, METHODS, VARIANTS, config_file

ROOT = Path(__file__).parents[2]
# Pages, and the help of `morel` and of its commands.
PAGES = {str(page.relative_to(ROOT)): page.read_text()
         for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
PAGES |= {name: f"```bash\n{documentation(name)}\n```" for name in (*COMMANDS, "plan", "__main__")}
# absl gives every command these.
_OTHERS = {"help", "flagfile"}


@cache
def flags_of(module):
    outcome = subprocess.run([sys.executable, ROOT / "docs/_extensions/flags_of.py", module], cwd=ROOT, text=True,
                             capture_output=True, check=True)
    return {flag["name"]: flag for flag in json.loads(outcome.stdout)}


def commands(page):
    """(module, its arguments as text) for each command of ours in a page's shell blocks."""
    for block in re.findall(r"```bash\n(.*?)```", page, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for name, planned, rest in re.findall(
                    r"(?:python -m morel_jax\.|\bmorel )(\w+)(?: (train|sweep|evaluate|reproduce)\b)?([^;&|]*)", line):
                yield f"morel_jax.{(planned or 'train') if name == 'plan' else name}", rest


def test_there_are_commands():
    assert sum(1 for page in PAGES.values() for _ in commands(page)) > 20


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    fields = FIELDS
    for module, rest in commands(PAGES[page]):
        known = flags_of(module)
        for name, value in re.findall(r"--([\w.]+)(?:=(\S+))?", rest):
            if name.startswith("config."):
                assert name.removeprefix("config.") in fields, rest
                continue
            assert name in known or name.removeprefix("no") in known or name in _OTHERS, rest
            values = known.get(name, {}).get("values")
            assert not values or value in values, rest
            if name == "config":
                file, _, names = value.partition(":")
                config_file(file)
                for kind, choice in zip(((), METHODS, VARIANTS), names.split(","), strict=False):
                    assert not kind or choice in kind, rest


def test_flags_are_described():
    assert flags_of("morel_jax.sweep")["mode"]["values"] == ["sequential", "vmapped"]
    assert flags_of("morel_jax.sweep")["sweep"]["repeated"]
    assert flags_of("morel_jax.evaluate")["which"]["default"] == ["best", "last"]
