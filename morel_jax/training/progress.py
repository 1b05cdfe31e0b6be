"""The progress of a run: a bar for the epoch under way on a terminal, lines in a file, and a line an epoch."""
import sys
import time
from typing import Any

from tqdm import tqdm

MODES = (True, "epochs", False)
# Between the lines that stand in a file for the bar.
_SECONDS_PER_LINE = 60.0


def _clock(seconds):
    return tqdm.format_interval(int(seconds))


class Progress:
    """Losses, images a second and the time left in the whole run, on standard error.

    On a terminal they are a bar that moves; elsewhere a line a minute, without carriage returns. Each epoch ends with a
    line of its own.

    Args:
        config: of the run.
        shown: True; ``"epochs"`` for the epochs' lines alone; or False, which writes nothing.
        runs: how many are trained at once; what is shown is their mean, and the images of all.

    Raises:
        ValueError: ``shown`` is none of these.
    """

    def __init__(self, config, shown, runs=1):
        if shown not in MODES:
            raise ValueError(f"progress must be one of {', '.join(map(repr, MODES))}; got {shown!r}.")
        self._config, self._shown, self._detailed = config, shown, shown not in (False, "epochs")
        self._images_per_step = config.batch_size * runs
        self._whose = f", mean of {runs}" if runs > 1 else ""
        self.steps_per_epoch = 0
        self._bar: Any = None
        self._terminal = sys.stderr.isatty()
        self._began = self._steps_then = None
        self._last_line = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._close()

    def _close(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def start_epoch(self, epoch, done):
        """Opens the bar of an epoch, ``done`` steps of which are done."""
        self._epoch = epoch
        self._bar = tqdm(total=self.steps_per_epoch * self._images_per_step, initial=done * self._images_per_step,
                         desc=f"epoch {epoch}/{self._config.epochs}", unit="img", unit_scale=True, leave=False,
                         disable=not (self._detailed and self._terminal), file=sys.stderr)

    def steps(self, done, totals):
        """Moves the bar to ``done`` steps of the epoch."""
        overall = (self._epoch - 1) * self.steps_per_epoch + done
        if self._began is None:  # The first dispatch compiled: it says nothing of the speed.
            self._began, self._steps_then = time.monotonic(), overall
            left = "?"
        else:
            speed = (overall - self._steps_then) / (time.monotonic() - self._began)
            left = _clock((self._config.epochs * self.steps_per_epoch - overall) / speed)
        if not self._detailed or not (self._terminal or self._line_is_due()):
            return
        count = int(totals.count)
        shown = {name.removesuffix("_loss"): f"{float(value) / count:.3f}" for name, value in totals.sums.items()
                 if name.endswith("loss")}
        if self._terminal:
            self._bar.set_postfix(shown | {"run left": left}, refresh=False)
            self._bar.update(done * self._images_per_step - self._bar.n)
        else:
            images, of = (steps * self._images_per_step for steps in (done, self.steps_per_epoch))
            self._write(f"epoch {self._epoch}/{self._config.epochs}{self._whose}  {images}/{of} img  "
                        + "  ".join(f"{name} {value}" for name, value in shown.items()) + f"  run left {left}")

    def validation(self, images, total):
        """Says how far the validation is."""
        if self._terminal:
            self._bar.set_postfix({"validated": f"{images}/{total}"})
        elif self._detailed and self._line_is_due():
            self._write(f"epoch {self._epoch}/{self._config.epochs}{self._whose}  validated {images}/{total}")

    def _line_is_due(self):
        return time.monotonic() - self._last_line >= _SECONDS_PER_LINE

    def _write(self, text):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
        self._last_line = time.monotonic()

    def end_epoch(self, line, best):
        """Replaces the bar by the epoch's line."""
        self._close()
        if not self._shown:
            return
        text = f"epoch {line['epoch']}/{self._config.epochs}{self._whose}  loss {line['loss']:.4f}"
        if "robust_accuracy" in line:
            text += f"  clean {100 * line['clean_accuracy']:.2f} %  robust {100 * line['robust_accuracy']:.2f} %"
        self._write(f"{text}  {line['images_per_second']:.0f} img/s  {_clock(line['seconds'])}"
                    + ("  best" if best else ""))
