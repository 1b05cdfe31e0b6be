"""The progress bar of an evaluation: one attack at a time, with the time left."""
import sys
import time

from tqdm import tqdm


class Silent:
    """Progress that shows nothing; what :func:`~morel_jax.evaluation.evaluate` tells its progress."""

    def begin(self, name, done, total):
        """An attack begins, ``done`` of whose ``total`` examples were done before."""

    def advance(self, examples, broken):
        """Some more examples are done, of which so many were broken."""

    def end(self):
        """The attack is over."""


# A log gets a line after so many seconds.
_SECONDS = 30


class Bar(Silent):
    """A bar on standard error that gives way to a line when its attack is over; off a terminal, plain lines."""

    def begin(self, name, done, total):
        """See :class:`Silent`."""
        self._name, self._broken, self._new, self._done, self._total = name, 0, 0, done, total
        self._began = self._said = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=name, unit="img", leave=False, file=sys.stderr) \
            if sys.stderr.isatty() else None

    def advance(self, examples, broken):
        """See :class:`Silent`."""
        self._broken += broken
        self._new += examples
        if self._bar is None:
            if time.monotonic() >= self._said + _SECONDS:
                self._said = time.monotonic()
                done = self._done + self._new
                self._say(f"{done} of {self._total} images done, {self._broken} of {self._new} broken")
            return
        self._bar.set_postfix(broken=self._broken, refresh=False)
        self._bar.update(examples)

    def end(self):
        """See :class:`Silent`."""
        if self._bar is not None:
            self._bar.close()
        self._say(f"{self._broken} of {self._new} images broken")

    def _say(self, what):
        seconds = int(time.monotonic() - self._began)
        print(f"{self._name}: {what}, {tqdm.format_interval(seconds)}", file=sys.stderr, flush=True)
