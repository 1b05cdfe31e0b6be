"""A trace of some of a run's steps, for XProf or Perfetto."""
import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from morel_jax import sharding
from morel_jax.progress import TrainingProgress


class Profile:
    """Traces steps of a run, once they are compiled and warm; written by the first process into ``workdir/profile``.

    Args:
        steps: how many; 0: none. They go through in one dispatch; a streamed piece of the data may have fewer.
        workdir: Path of the run or sweep.
        progress: TrainingProgress, which says where the trace is.

    Raises:
        ValueError: ``steps`` is no whole number from 0.
    """

    def __init__(self, steps: int, workdir: Path, progress: TrainingProgress) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"profile must be a number of steps, 0 or more; got {steps!r}.")
        self._waiting, self._warm = steps, False
        self._folder, self._progress = workdir / "profile", progress

    def steps(self, left: int, whole: int) -> int:
        """Steps of the next dispatch if that is the one to trace, else 0; the same in all processes.

        Args:
            left: steps that it may have at most.
            whole: steps of the piece of data that is under way.
        """
        steps = min(self._waiting, whole)
        return steps if self._warm and steps <= left else 0

    @contextlib.contextmanager
    def around(self, steps: int) -> Iterator[None]:
        """Around a dispatch and the wait for its end; ``steps`` is what :meth:`steps` returned for it."""
        self._warm = True
        if steps:
            self._waiting = 0
        if not (steps and sharding.is_first_process()):
            yield
            return
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # The steps are one compiled program.
        with jax.profiler.trace(self._folder, create_perfetto_trace=True, profiler_options=options):
            yield
        self._progress.say(f"profile of {steps} steps: {self._folder}")
