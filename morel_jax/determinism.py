"""XLA's flags: runs that repeat bit for bit on a GPU, and sums that are right on a CPU."""
import os
import sys
import warnings
from importlib import metadata

# Only kernels that add in a fixed order, and none chosen by a stopwatch: two processes might choose differently.
_GPU_FLAGS = ("--xla_gpu_deterministic_ops=true",)

# From jaxlib 0.11 on XLA:CPU gives reductions to YNNPACK, whose kernels read past the end of operands that are
# broadcast along the last axis: other garbage at each call (jax-ml/jax#39741).
_CPU_FLAGS = ("--xla_cpu_experimental_ynn_fusion_type=-reduce",)
_FIRST_JAXLIB_WITH_WRONG_SUMS = (0, 11)


def use_deterministic_kernels() -> None:
    """Makes XLA use deterministic GPU kernels only, at some cost in speed; must come before JAX has used a device.

    Without it two runs on a GPU, and a resumed and an unbroken one, may differ in last bits, which training amplifies.
    On a CPU nothing changes: results repeat there anyway. What JAX itself draws at random always repeats.
    """
    _add(_GPU_FLAGS)


def avoid_wrong_sums() -> None:
    """Keeps XLA:CPU from kernels that give wrong sums, where jaxlib has them; must come before JAX has used a device.

    `morel_jax` calls it when it is imported, and warns where that is too late. A choice of YNNPACK's kernels that
    ``XLA_FLAGS`` makes already stays.
    """
    version = tuple(map(int, metadata.version("jaxlib").split(".")[:2]))
    if version >= _FIRST_JAXLIB_WITH_WRONG_SUMS and _add(_CPU_FLAGS) and _jax_is_in_use():
        warnings.warn(f"JAX was used before morel_jax was imported, and on a CPU this jaxlib can then give wrong sums; "
                      f"import morel_jax first, or set XLA_FLAGS={' '.join(_CPU_FLAGS)}.", stacklevel=3)


def _jax_is_in_use() -> bool:
    # JAX has no public name for it.
    started = getattr(sys.modules.get("jax._src.xla_bridge"), "backends_are_initialized", None)
    return started is not None and started()


def _add(flags: tuple[str, ...]) -> bool:
    """Adds to ``XLA_FLAGS`` those that are not set there; returns whether there were any."""
    present = os.environ.get("XLA_FLAGS", "").split()
    names = {flag.partition("=")[0] for flag in present}
    added = [flag for flag in flags if flag.partition("=")[0] not in names]
    os.environ["XLA_FLAGS"] = " ".join([*present, *added])
    return bool(added)
