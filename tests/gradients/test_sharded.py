import os
import subprocess
import sys

import pytest

from tests.small import COMPILE_QUICKLY


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    outcome = subprocess.run([sys.executable, "-m", "tests.gradients.sharded"], text=True, capture_output=True,
                             env=os.environ | {"XLA_FLAGS": COMPILE_QUICKLY})
    assert outcome.returncode == 0, outcome.stderr
    apart = dict(line.split() for line in outcome.stdout.splitlines())
    assert len(apart) == 8
    for name, value in apart.items():
        assert float(value) < 1e-3, name
