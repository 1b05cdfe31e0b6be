"""Progress of a training or an evaluation: a bar on a terminal, in a notebook a line that changes, elsewhere a line of
standard error now and then."""
import sys
import time
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

MODES = (True, "epochs", False)
_SECONDS_IN_NOTEBOOK = 1.0


def _clock(seconds: float) -> str:
    return tqdm.format_interval(int(seconds))


def _notebook_line() -> Any:
    """A line in the output of the notebook that runs this program, which can be written anew; None outside of one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        return None
    from IPython.display import display
    return display({"text/plain": ""}, raw=True, display_id=True)


class _Progress:
    """A bar that moves on a terminal; in a notebook one line, written anew each second; elsewhere lines, without
    carriage returns, ``seconds_per_line`` apart.

    Args:
        shown: whether any is written.
    """
    seconds_per_line = 60.0

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Any = None
        self._terminal = sys.stderr.isatty()
        self._notebook = _notebook_line() if shown and not self._terminal else None
        if self._notebook:
            self.seconds_per_line = _SECONDS_IN_NOTEBOOK
        self._last_line = time.monotonic()

    def _open(self, description: str, total: int, done: int, **options: Any) -> None:
        self._bar = tqdm(total=total, initial=done, desc=description, unit="img", leave=False, file=sys.stderr,
                         disable=not (self._shown and self._terminal), **options)

    def _is_due(self) -> bool:
        """Whether to move the bar or write a line now."""
        return self._shown and (self._terminal or time.monotonic() - self._last_line >= self.seconds_per_line)

    def _show(self, done: int, beside: Mapping[str, str | int], line: str, at_once: bool = False) -> None:
        """Moves the bar to ``done``, with the dict ``beside`` beside it; or writes the line."""
        if self._terminal:
            self._bar.set_postfix(beside, refresh=at_once)
            self._bar.update(done - self._bar.n)
        elif self._notebook:
            self._notebook.update({"text/plain": line}, raw=True)
            self._last_line = time.monotonic()
        else:
            self._write(line)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._notebook:
            self._notebook.update({"text/plain": ""}, raw=True)

    def _write(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
        self._last_line = time.monotonic()


class TrainingProgress(_Progress):
    """Losses, the remaining time of the whole run, and a line per epoch.

    Args:
        config: of the run.
        shown: True; ``"epochs"`` for the epochs' lines alone; or False, which writes nothing.
        runs: how many are trained at once; their mean is shown, and the images of all.

    Raises:
        ValueError: ``shown`` is none of these.
    """

    def __init__(self, config: ConfigDict, shown: bool | str, runs: int = 1) -> None:
        if shown not in MODES:
            raise ValueError(f"progress must be one of {', '.join(map(repr, MODES))}; got {shown!r}.")
        super().__init__(shown not in (False, "epochs"))
        self._config, self._epochs_shown = config, bool(shown)
        self._images_per_step = config.batch_size * runs
        self._whose = f", mean of {runs}" if runs > 1 else ""
        self.steps_per_epoch = 0
        self._opened, self._compiling = time.monotonic(), 0.0
        self._began: float | None = None
        self._steps_then = 0

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    def _title(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._config.epochs}"

    def start_epoch(self, epoch: int, done: int) -> None:
        """Opens the bar of an epoch that has ``done`` steps behind it."""
        self._epoch = epoch
        self._open(self._title(epoch), self.steps_per_epoch * self._images_per_step, done * self._images_per_step,
                   unit_scale=True)

    def compiled(self, seconds: float) -> None:
        """Takes note of how long the steps' program took to compile, or to be read from the cache."""
        self._compiling = seconds

    def say(self, text: str) -> None:
        """Writes a line, unless nothing is shown."""
        if self._epochs_shown:
            self._write(text)

    def steps(self, done: int, totals: Any) -> None:
        """Shows that ``done`` steps of the epoch are done."""
        overall = (self._epoch - 1) * self.steps_per_epoch + done
        if self._began is None:  # The first dispatch compiled, so it says nothing about the speed.
            if self._shown:
                self.say(f"first step after {time.monotonic() - self._opened:.1f} s, {self._compiling:.1f} s of them "
                         "compiling")
            self._began, self._steps_then = time.monotonic(), overall
            left = "?"
        else:
            speed = (overall - self._steps_then) / (time.monotonic() - self._began)
            left = _clock((self._config.epochs * self.steps_per_epoch - overall) / speed)
        if not self._is_due():
            return
        count = int(totals.count)
        losses = {name.removesuffix("_loss"): f"{float(value) / count:.3f}" for name, value in totals.sums.items()
                  if name.endswith("loss")}
        images, of = (steps * self._images_per_step for steps in (done, self.steps_per_epoch))
        self._show(images, losses | {"run left": left}, f"{self._title(self._epoch)}{self._whose}  {images}/{of} img  "
                   + "  ".join(f"{name} {value}" for name, value in losses.items()) + f"  run left {left}")

    def validation(self, images: int, total: int) -> None:
        """Shows how far the validation is."""
        if self._is_due():
            self._show(self._bar.n, {"validated": f"{images}/{total}"},
                       f"{self._title(self._epoch)}{self._whose}  validated {images}/{total}", at_once=True)

    def end_epoch(self, line: Mapping[str, Any], best: bool) -> None:
        """Replaces the bar by the epoch's line."""
        self._close()
        if not self._epochs_shown:
            return
        text = f"{self._title(line['epoch'])}{self._whose}  loss {line['loss']:.4f}"
        if "robust_accuracy" in line:
            text += f"  clean {100 * line['clean_accuracy']:.2f} %  robust {100 * line['robust_accuracy']:.2f} %"
        self._write(f"{text}  {line['images_per_second']:.0f} img/s  {_clock(line['seconds'])}"
                    + ("  best" if best else ""))


class AttackProgress(_Progress):
    """How many examples an attack has finished and broken, and a line per attack; nothing unless ``shown``."""
    seconds_per_line = 30.0

    def __init__(self, shown: bool = True) -> None:
        super().__init__(shown)

    def begin(self, name: str, done: int, total: int, breaks: bool = True) -> None:
        """An attack begins; ``done`` of its ``total`` examples were finished before.

        With ``breaks`` False it is work of another kind, of which no broken examples are counted.
        """
        self._breaks = breaks
        self._name, self._broken, self._new, self._done, self._total = name, 0, 0, done, total
        self._began = self._last_line = time.monotonic()
        self._open(name, total, done)

    def advance(self, examples: int, broken: int = 0) -> None:
        """This many more examples are finished, and this many of them broken."""
        self._broken += broken
        self._new += examples
        if self._is_due():
            done = self._done + self._new
            self._show(done, {"broken": self._broken} if self._breaks else {},
                       self._line(f"{done} of {self._total} images done"
                                  + (f", {self._broken} of {self._new} broken" if self._breaks else "")))

    def end(self) -> None:
        """The attack is over."""
        self._close()
        if self._shown:
            self._write(self._line(f"{self._broken} of {self._new} images broken" if self._breaks
                                   else f"{self._new} images done"))

    def _line(self, text: str) -> str:
        return f"{self._name}: {text}, {_clock(time.monotonic() - self._began)}"
