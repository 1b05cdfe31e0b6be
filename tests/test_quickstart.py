import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.slow
def test_quickstart_is_plainly_robust(tmp_path):
    """Shortened to two epochs; the whole command is the README's first."""
    outcome = subprocess.run([sys.executable, "-m", "morel_jax.quickstart", f"--workdir={tmp_path}",
                              "--config.epochs=2"], cwd=ROOT, text=True, capture_output=True)
    assert outcome.returncode == 0, outcome.stderr
    table = {line[:24].strip(): [float(number) for number in line[24:].split()]
             for line in outcome.stdout.splitlines() if ", best" in line or ", last" in line}
    assert set(table) == {"MOREL, best", "MOREL, last", "undefended, best", "undefended, last"}
    assert table["MOREL, last"][1] > table["undefended, last"][1] + 30
    assert table["undefended, last"][0] > 70
    assert (tmp_path / "quickstart.png").stat().st_size > 20_000
