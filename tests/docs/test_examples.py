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
