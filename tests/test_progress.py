import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from morel_jax import progress
from morel_jax.progress import AttackProgress, TrainingProgress
from morel_jax.training.epoch import Totals
from tests.small import small_config

LINE = {"epoch": 1, "loss": 1.25, "images_per_second": 100.0, "seconds": 61.0}


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


def shown(monkeypatch, how, terminal, seconds_per_line=60.0):
    """What an epoch of three steps and its validation leave on standard error."""
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(TrainingProgress, "seconds_per_line", seconds_per_line)
    with TrainingProgress(small_config(), how) as bar:
        bar.steps_per_epoch = 3
        bar.start_epoch(1, 0)
        bar.compiled(1.25)
        for done in (1, 2, 3):
            bar.steps(done, Totals({"loss": np.float32(2 * done)}, np.int32(done), np.int32(-1)))
        bar.validation(16, 40)
        bar.end_epoch(LINE, best=True)
    return stream.getvalue()


FIRST = "first step after 0.0 s, 1.2 s of them compiling"
EPOCH = "epoch 1/2  loss 1.2500  100 img/s  01:01  best"


def test_a_file_gets_lines_without_carriage_returns(monkeypatch):
    text = shown(monkeypatch, True, terminal=False, seconds_per_line=0.0)
    assert "\r" not in text
    first, *lines = text.splitlines()
    assert first == FIRST
    assert [line.split("  ")[1] for line in lines[:3]] == ["16/48 img", "32/48 img", "48/48 img"]
    assert all("loss 2.000" in line and "run left" in line for line in lines[:3])
    assert lines[3:] == ["epoch 1/2  validated 16/40", EPOCH]


def test_between_a_files_lines_lies_a_minute(monkeypatch):
    assert shown(monkeypatch, True, terminal=False).splitlines() == [FIRST, EPOCH]


def test_a_terminal_gets_a_bar(monkeypatch):
    text = shown(monkeypatch, True, terminal=True)
    assert "\repoch 1/2:" in text
    assert FIRST in text
    assert EPOCH in text


@pytest.mark.parametrize("terminal", [True, False])
def test_without_progress_the_epochs_lines_stay(monkeypatch, terminal):
    assert shown(monkeypatch, "epochs", terminal, 0.0).splitlines() == [EPOCH]
    assert shown(monkeypatch, False, terminal, 0.0) == ""


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="progress must be one of True, 'epochs', False; got 'bar'"):
        TrainingProgress(small_config(), "bar")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_of_an_evaluation_gets_plain_lines_now_and_then(capsys, clock):
    bar = AttackProgress()
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


def test_other_work_breaks_nothing(capsys, clock):
    bar = AttackProgress()
    bar.begin("fog", 0, 100, breaks=False)
    clock[0] = 131.0
    bar.advance(40)
    bar.advance(60)
    bar.end()
    assert capsys.readouterr().err.splitlines() == ["fog: 40 of 100 images done, 00:31", "fog: 100 images done, 00:31"]


def test_a_terminal_gets_a_bar_of_an_evaluation(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = AttackProgress()
    bar.begin("fgsm", 0, 10)
    bar.advance(10, 3)
    bar.end()
    said = capsys.readouterr().err
    assert "\r" in said
    assert said.endswith("fgsm: 3 of 10 images broken, 00:00\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_an_evaluation_may_be_silent(monkeypatch, terminal):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(AttackProgress, "seconds_per_line", 0.0)
    bar = AttackProgress(shown=False)
    bar.begin("fgsm", 0, 10)
    bar.advance(10, 3)
    bar.end()
    assert stream.getvalue() == ""


def test_a_notebook_gets_one_line_that_changes(capsys, monkeypatch, clock):
    said = []
    handle = SimpleNamespace(update=lambda bundle, raw: said.append(bundle["text/plain"]))
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=lambda *_, **__: handle))
    bar = AttackProgress()
    bar.begin("fgsm", 0, 100)
    for seconds in (0.5, 2, 2.5, 4):
        clock[0] = 100.0 + seconds
        bar.advance(10, 3)
    bar.end()
    assert said == ["fgsm: 20 of 100 images done, 6 of 20 broken, 00:02",
                    "fgsm: 40 of 100 images done, 12 of 40 broken, 00:04", ""]
    assert capsys.readouterr().err == "fgsm: 12 of 40 images broken, 00:04\n"
    del shell.kernel  # IPython on a terminal.
    AttackProgress().begin("fgsm", 0, 100)
    assert len(said) == 3
