"""The tutorial's Python, run on the network that its first command trains."""
import re
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.slow
def test_tutorial(quickstart, tmp_path, monkeypatch, capsys):
    folder, _ = quickstart
    for name in ("morel", "undefended"):
        (tmp_path / "runs/quickstart").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/quickstart" / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S):
        exec(compile(block, str(TUTORIAL), "exec"), namespace)
    said = capsys.readouterr().out
    clean, robust = re.search(r"morel +(\S+)% clean, (\S+)% under PGD-20", said).groups()
    assert float(clean) > 65
    assert float(robust) > 50
    assert (tmp_path / "runs/quickstart/attacked.png").stat().st_size > 10_000
