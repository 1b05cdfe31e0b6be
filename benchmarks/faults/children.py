"""Commands in processes of their own, forked from one that has the imports done: quick to start, and to kill."""
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from pathlib import Path

# Address space that a command may take beyond what the imports have, in bytes.
MEMORY = 12 * 2**30
# What the commands import inside their functions. Their own modules define flags, and a process can hold those of one
# command only.
_PRELOADED = (
    "morel_jax.training", "morel_jax.evaluation.trained",
    "morel_jax.evaluation.figures", "morel_jax.reproduction.work", "morel_jax.reproduction.page",
    "morel_jax.interop.stablehlo", "morel_jax.interop.model_card",
    "ml_collections.config_flags", "scipy.stats")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: exit status; negative after a signal.
        stdout, stderr: text.
        seconds: that it took.
        hung: whether it was killed for taking too long.
    """
    status: int
    stdout: str
    stderr: str
    seconds: float
    hung: bool = False

    @property
    def crashed(self):
        """Whether a person sees a traceback, or a process that died of a signal."""
        return "Traceback (most recent call last)" in self.stderr or (self.status < 0 and not self.hung)


def allow_memory(count):
    """Lets this process take ``count`` bytes of address space more than it has."""
    have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + count, have + count))


def _redirect(folder, name):
    file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, {"stdout": 1, "stderr": 2}[name])
    os.close(file)


def _become(target, arguments, folder, said, compiled):
    """In the child: a working folder, redirected output, bounded memory, compiled programs at hand; then the work."""
    os.setsid()  # A command's own children, if it has any, die with it.
    os.chdir(folder)
    for name in ("stdout", "stderr"):
        _redirect(said, name)
    os.environ["HOME"] = str(folder)  # For flags that begin with ~.
    allow_memory(MEMORY)
    import jax
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # The traceback of an exception that nobody catches is what Python itself would print.
    target(*arguments)


def run_module(module, arguments):
    """``python -m module arguments``, in this process."""
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]  # By which a command starts itself again.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Children:
    """Starts processes from one that has the imports done.

    Args:
        said: folder for what they print; made when it is not there.
        compiled: folder of compiled programs, by default that of ``JAX_COMPILATION_CACHE_DIR``, or else in ``said``.
    """

    def __init__(self, said, compiled=None):
        self._said = Path(said)
        self._compiled = compiled or os.environ.get("JAX_COMPILATION_CACHE_DIR") or self._said / "compiled"
        self._numbers = itertools.count()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *_PRELOADED])

    def start(self, target, arguments, folder):
        """A :class:`Child` that calls ``target(*arguments)``, both picklable, in ``folder``."""
        said = self._said / str(next(self._numbers))
        said.mkdir(parents=True)
        process = self._context.Process(target=_become, args=(target, arguments, Path(folder), said, self._compiled))
        process.start()
        return Child(process, said)

    def command(self, module, arguments, folder):
        """A :class:`Child` that is ``python -m module arguments`` in ``folder``."""
        return self.start(run_module, (module, list(arguments)), folder)


class Child:
    """A process that was started."""

    def __init__(self, process, said):
        self._process, self._said, self._began = process, said, time.monotonic()

    def is_alive(self):
        return self._process.is_alive()

    def kill(self):
        """``kill -9`` of the process and its own children."""
        with contextlib.suppress(ProcessLookupError):
            # It may not have become the leader of its group yet.
            os.kill(self._process.pid, signal.SIGKILL)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()

    def wait(self, timeout):
        """Returns Ended; one that takes longer than ``timeout`` seconds is killed."""
        self._process.join(timeout)
        hung = self._process.is_alive()
        if hung:
            self.kill()
        texts = [(self._said / name).read_text(errors="replace") if (self._said / name).exists() else ""
                 for name in ("stdout", "stderr")]
        return Ended(self._process.exitcode, *texts, time.monotonic() - self._began, hung)
