import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.slow
def test_manual_collectives():
    outcome = subprocess.run([sys.executable, EXAMPLES / "manual_collectives.py"], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    found = dict(re.findall(r"(shard_map|pmap), 4 devices\n.*\n  parameters differ by (\S+) ", outcome.stdout))
    assert found.keys() == {"shard_map", "pmap"}, outcome.stdout
    for apart in found.values():
        assert float(apart) < 1e-4


@pytest.mark.slow
def test_own_parts(tmp_path):
    outcome = subprocess.run([sys.executable, EXAMPLES / "own_parts.py", tmp_path], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    correct = ast.literal_eval(outcome.stdout.splitlines()[-1])
    assert list(correct) == ["clean", "pgd20", "one-step", "apgd-ce"]
    # Of 200 images in four classes.
    assert correct["clean"] > 180
    assert 50 < correct["apgd-ce"] <= correct["pgd20"] <= correct["one-step"] <= correct["clean"]
