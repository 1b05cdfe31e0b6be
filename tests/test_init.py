import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import morel_jax

DOCS = Path(__file__).parents[1] / "docs" / "reference"
PACKAGES = sorted(module.name for module in pkgutil.walk_packages(morel_jax.__path__, "morel_jax.") if module.ispkg)


def _of_fresh_process(code):
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_every_name_is_imported_on_first_use():
    found = _of_fresh_process("import json, morel_jax\n"
                              "print(json.dumps({n: type(getattr(morel_jax, n)).__name__ for n in morel_jax.__all__}))")
    assert found.keys() == set(morel_jax.__all__)
    assert {name for name, kind in found.items() if kind == "module"} == {
        "attacks", "data", "evaluation", "gradients", "interop", "losses", "methods", "models", "targets", "training"}
    assert {name for name, kind in found.items() if kind == "function"} == {
        "check", "evaluate", "fit", "fit_population", "load", "recipe", "report_card", "use_compilation_cache"}


def test_importing_the_package_is_light():
    loaded = _of_fresh_process("import json, sys, morel_jax\nprint(json.dumps(sorted(sys.modules)))")
    assert not {"flax", "orbax", "tensorflow_datasets", "jax", "numpy"} & set(loaded)


def test_training_imports_what_every_run_needs_and_no_more():
    loaded = _of_fresh_process("import json, sys, morel_jax.training\nprint(json.dumps(sorted(sys.modules)))")
    assert not {"tensorboardX", "torch", "tensorflow", "grain", "tensorflow_datasets", "matplotlib", "scipy", "pandas",
                "requests", "PIL", "pooch"} & set(loaded)


def test_names_are_listed_and_no_others_found():
    assert set(morel_jax.__all__) <= set(dir(morel_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = morel_jax.nothing


def test_evaluate_is_a_function_and_a_command():
    code = ("import json, morel_jax\nfrom morel_jax import evaluate\nfrom morel_jax.evaluate import main\n"
            "print(json.dumps([callable(evaluate), evaluate.__module__, callable(main)]))")
    assert _of_fresh_process(code) == [True, "morel_jax.evaluation.protocol", True]
    command = subprocess.run([sys.executable, "-m", "morel_jax.evaluate", "--help"], capture_output=True, text=True)
    assert "--workdir" in command.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_say_what_is_theirs(name):
    package = importlib.import_module(name)
    exec(f"from {name} import *", found := {})  # Fails on a name that is not there; imports what is a module.
    assert package.__all__
    assert set(package.__all__) <= found.keys()


@pytest.mark.parametrize("name", PACKAGES)
def test_what_the_reference_lists_is_in_all(name):
    listed, current = set(), None
    for line in "\n".join(page.read_text() for page in sorted(DOCS.glob("*.md"))).splitlines():
        if found := re.match(r"\.\. (?:currentmodule|automodule):: (\S+)", line):
            current = found[1]
        elif (found := re.match(r"\.\. auto(?:function|class|data):: (\S+)", line)):
            home, _, entry = (found[1] if "." in found[1] else f"{current}.{found[1]}").rpartition(".")
            listed |= {entry} if home == name else set()
    assert listed <= set(importlib.import_module(name).__all__)
