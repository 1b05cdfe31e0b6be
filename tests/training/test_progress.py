import io
import sys

import numpy as np
import pytest

from morel_jax.training import progress
from morel_jax.training.progress import Progress
from morel_jax.training.step import Totals
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
    monkeypatch.setattr(progress, "_SECONDS_PER_LINE", seconds_per_line)
    with Progress(small_config(), how) as bar:
        bar.steps_per_epoch = 3
        bar.start_epoch(1, 0)
        for done in (1, 2, 3):
            bar.steps(done, Totals({"loss": np.float32(2 * done)}, np.int32(done), np.int32(-1)))
        bar.validation(16, 40)
        bar.end_epoch(LINE, best=True)
    return stream.getvalue()


EPOCH = "epoch 1/2  loss 1.2500  100 img/s  01:01  best"


def test_a_file_gets_lines_without_carriage_returns(monkeypatch):
    text = shown(monkeypatch, True, terminal=False, seconds_per_line=0.0)
    assert "\r" not in text
    lines = text.splitlines()
    assert [line.split("  ")[1] for line in lines[:3]] == ["16/48 img", "32/48 img", "48/48 img"]
    assert all("loss 2.000" in line and "run left" in line for line in lines[:3])
    assert lines[3:] == ["epoch 1/2  validated 16/40", EPOCH]


def test_between_a_files_lines_lies_a_minute(monkeypatch):
    assert shown(monkeypatch, True, terminal=False).splitlines() == [EPOCH]


def test_a_terminal_gets_a_bar(monkeypatch):
    text = shown(monkeypatch, True, terminal=True)
    assert "\repoch 1/2:" in text
    assert EPOCH in text


@pytest.mark.parametrize("terminal", [True, False])
def test_without_progress_the_epochs_lines_stay(monkeypatch, terminal):
    assert shown(monkeypatch, "epochs", terminal, 0.0).splitlines() == [EPOCH]
    assert shown(monkeypatch, False, terminal, 0.0) == ""


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="progress must be one of True, 'epochs', False; got 'bar'"):
        Progress(small_config(), "bar")
