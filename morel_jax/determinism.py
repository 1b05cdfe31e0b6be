"""Runs that repeat bit for bit on a GPU."""
import os

# Only kernels that add in a fixed order, and none chosen by a stopwatch: two processes might choose differently.
_FLAGS = ("--xla_gpu_deterministic_ops=true",)


def use_deterministic_kernels():
    """Makes XLA use deterministic GPU kernels only, at some cost in speed; must come before JAX has used a device.

    Without it two runs on a GPU, and a resumed and an unbroken one, may differ in last bits, which training amplifies.
    On a CPU nothing changes: results repeat there anyway. What JAX itself draws at random always repeats.
    """
    present = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*present, *(flag for flag in _FLAGS if flag not in present)])
