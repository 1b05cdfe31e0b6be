"""The progress bar of an evaluation: one attack at a time, with the time left."""
import sys

from tqdm import tqdm


class Silent:
    """Progress that shows nothing; what :func:`~morel_jax.evaluation.evaluate` tells its progress."""

    def begin(self, name, done, total):
        """An attack begins, ``done`` of whose ``total`` examples were done before."""

    def advance(self, examples, broken):
        """Some more examples are done, of which so many were broken."""

    def end(self):
        """The attack is over."""


class Bar(Silent):
    """A bar on standard error that gives way to a line when its attack is over."""

    def begin(self, name, done, total):
        """See :class:`Silent`."""
        self._name, self._broken, self._new = name, 0, 0
        self._bar = tqdm(total=total, initial=done, desc=name, unit="img", leave=False, file=sys.stderr)

    def advance(self, examples, broken):
        """See :class:`Silent`."""
        self._broken += broken
        self._new += examples
        self._bar.set_postfix(broken=self._broken, refresh=False)
        self._bar.update(examples)

    def end(self):
        """See :class:`Silent`."""
        seconds = self._bar.format_dict["elapsed"]
        self._bar.close()
        tqdm.write(f"{self._name}: {self._broken} of {self._new} images broken, {tqdm.format_interval(int(seconds))}",
                   file=sys.stderr)
