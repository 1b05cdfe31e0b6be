"""Compiled programs on disk: a second start reads what the first has compiled."""
import hashlib
import logging
import os
import platform
import re
import shutil
from pathlib import Path

import filelock
import jax

from morel_jax.files import local_path, user_cache

# Of all programs together; the least recently used go first. One of ResNet18 takes 3 to 10 MiB.
_MAX_BYTES = 2 * 2**30
# With less free space nothing is kept: the disk is left to runs and data.
_LEAST_FREE_BYTES = 2**28
# What compiles faster is compiled again: it would fill the folder with small files.
_LEAST_SECONDS = 0.1
_LOCK_SECONDS = 10.0
_logger = logging.getLogger(__name__)


def use_compilation_cache(folder: str | os.PathLike | None = None) -> Path | None:
    """Makes JAX keep compiled programs on disk, for this process and later ones; the commands call it.

    JAX decides which program is the same: code, versions, XLA's flags and devices count. Results are bitwise those of a
    fresh compilation. Of several processes of one run the first writes and all read. Where JAX has such a folder
    already, by ``JAX_COMPILATION_CACHE_DIR`` or ``jax_compilation_cache_dir``, nothing changes.

    A folder that cannot be used is one warning, and programs are compiled as without. So is an entry that is damaged:
    delete the folder then, which may be done at any time. Whoever can write into it can have this process run code of
    theirs.

    Args:
        folder: None: ``compiled`` in this library's own cache folder, ``$XDG_CACHE_HOME/morel_jax`` or
            ``~/.cache/morel_jax``. Each kind of processor has a folder of its own in it.

    Returns:
        The folder that JAX uses, or None.

    Raises:
        ValueError: ``folder`` is no path on a file system.
    """
    present = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # JAX defines them at run time.
    if present:
        return Path(present)
    if folder is not None:
        home = local_path(folder, "compilation_cache")
    elif (cache := user_cache()) is not None:
        home = cache / "compiled"
    else:
        _logger.warning("Compiled programs are not kept: HOME is not set and no home folder is known.")
        return None
    path = home / _processor()
    try:
        # Entries are code: nobody else may write there.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_unfinished(path)
        free = shutil.disk_usage(path).free
    except (OSError, filelock.Timeout) as error:
        _logger.warning("Compiled programs are not kept: %s must be a folder that can be written and locked; %s", path,
                        error)
        return None
    if free < _LEAST_FREE_BYTES:
        _logger.warning("Compiled programs are not kept: the disk of %s must have %d MiB free; it has %d.", path,
                        _LEAST_FREE_BYTES >> 20, free >> 20)
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    if jax.config.jax_compilation_cache_max_size == -1:  # type: ignore[attr-defined]  # No limit: JAX's default.
        jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return path


def _remove_unfinished(path: Path) -> None:
    """Removes what a kill or a full disk has cut off. JAX writes an entry's time of use last, under this lock."""
    with filelock.FileLock(path / ".lockfile", timeout=_LOCK_SECONDS):
        for entry in path.glob("*-cache"):
            time_of_use = entry.with_name(f"{entry.name.removesuffix('-cache')}-atime")
            if not time_of_use.exists() or time_of_use.stat().st_size != 8:
                entry.unlink()
                time_of_use.unlink(missing_ok=True)
        with open(path / ".writable", "w") as file:
            file.write(" ")


def _processor() -> str:
    """Names the processor: a program for a CPU runs only on those that have its instructions, and how its loops are cut
    depends on their number. A home folder may be on many machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    told = {line for line in lines if re.match(r"vendor_id|model name|flags|Features|CPU (implementer|part)", line)}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    digest = hashlib.sha256(repr((sorted(told) or lines, usable)).encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"
