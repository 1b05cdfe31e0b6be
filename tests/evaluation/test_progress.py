import sys

import pytest

from morel_jax.evaluation import progress
from morel_jax.evaluation.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_plain_lines_now_and_then(capsys, clock):
    bar = Bar()
    bar.begin("fgsm", 5, 100)
    for seconds in (10, 29, 30, 31, 61):
        clock[0] = 100.0 + seconds
        bar.advance(10, 3)
    clock[0] = 170.0
    bar.end()
    assert capsys.readouterr().err.splitlines() == [
        "fgsm: 35 of 100 images done, 9 of 30 broken, 00:30",
        "fgsm: 55 of 100 images done, 15 of 50 broken, 01:01",
        "fgsm: 15 of 50 images broken, 01:10"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = Bar()
    bar.begin("fgsm", 0, 10)
    bar.advance(10, 3)
    bar.end()
    said = capsys.readouterr().err
    assert "\r" in said
    assert said.endswith("fgsm: 3 of 10 images broken, 00:00\n")
