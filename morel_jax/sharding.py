"""Many devices: the mesh, what of a run lies where, and the start of several processes.

The program is the same for one device and for many (GSPMD): the batch is cut along both mesh axes, the images' losses
see all of it, and XLA puts in the communication. With ``fsdp`` > 1 parameters and optimiser state are cut too, along
that axis.
"""
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

AXES = ("data", "fsdp")


def jax_devices() -> list[jax.Device]:
    """``jax.devices()``; where ``JAX_PLATFORMS`` asks for what is not there, one line says so.

    Raises:
        OSError: JAX finds no such device.
    """
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:
        platforms = jax.config.jax_platforms  # type: ignore[attr-defined]  # Made at run time.
        raise OSError(f"JAX_PLATFORMS must name platforms that this machine and this JAX have (empty: any); got "
                      f"{platforms!r}. {str(error).partition(' (')[0]}".rstrip()) from None


def make_mesh(data: int = 0, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run.

    Args:
        data: devices along the axis that holds whole copies of the parameters; 0: as many as there are.
        fsdp: devices that share one copy.
        devices: of the mesh; None: those of all processes.

    Returns:
        A mesh with the axes ``data`` and ``fsdp``, both of type Auto. Of one process, the first
        ``data * fsdp`` devices; several processes must use all.

    Raises:
        ValueError: more devices asked for than there are, or a number that does not come out even.
    """
    devices = jax_devices() if devices is None else devices
    count = len(devices)
    if fsdp < 1 or data < 0:
        raise ValueError(f"config.mesh.fsdp must be 1 or more and config.mesh.data 0 or more; got {fsdp} and {data}.")
    if data == 0:
        if count % fsdp:
            raise ValueError(f"config.mesh.fsdp must divide the number of devices, {count}, where config.mesh.data is "
                             f"0; got {fsdp}.")
        data = count // fsdp
    if data * fsdp > count or (jax.process_count() > 1 and data * fsdp != count):
        rule = f", of {jax.process_count()} processes, which must all be used" if jax.process_count() > 1 else ""
        raise ValueError(f"config.mesh asks for data * fsdp = {data} * {fsdp} = {data * fsdp} devices; there are "
                         f"{count}{rule}.")
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[:data * fsdp])


def platform(mesh: Mesh) -> str:
    """What the devices of a mesh are, such as ``cpu``, ``tpu`` or ``gpu``."""
    return mesh.devices.flat[0].platform


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a run lie; equal for equal meshes, and hashable.

    Attributes:
        mesh: from :func:`make_mesh`.
        min_size: arrays of fewer elements are not cut along ``fsdp``: the latency of gathering them costs more than
            the memory they take.
    """
    mesh: Mesh
    min_size: int = 1024

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """See :func:`platform`."""
        return platform(self.mesh)

    @property
    def cuts_parameters(self) -> bool:
        """Whether devices share one copy of the parameters (FSDP)."""
        return self.mesh.shape["fsdp"] > 1

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, P())

    def batch(self, axis: int = 0) -> NamedSharding:
        """Cut along ``axis``, that of the examples, over all devices."""
        return NamedSharding(self.mesh, P(*[None] * axis, AXES))

    def parameter(self, shape: Sequence[int]) -> NamedSharding:
        """Of one array of parameters or optimiser state: cut along ``fsdp``, or whole.

        Vectors (biases, BatchNorm) and small arrays stay whole. Of the others the longest axis that ``fsdp`` divides
        is cut, the last of equals: output channels rather than inputs.
        """
        ways = self.mesh.shape["fsdp"]
        fitting = [axis for axis, size in enumerate(shape) if size % ways == 0]
        if ways == 1 or len(shape) < 2 or math.prod(shape) < self.min_size or not fitting:
            return self.replicated
        cut = max(fitting, key=lambda axis: (shape[axis], axis))
        return NamedSharding(self.mesh, P(*(("fsdp" if axis == cut else None) for axis in range(len(shape)))))

    def state(self, state: PyTree) -> PyTree:
        """A tree of shardings for a TrainState, or a tree of arrays or shapes like one."""
        return jax.tree.map(lambda leaf: self.parameter(leaf.shape), state)

    def abstract(self, tree: PyTree, shardings: PyTree) -> PyTree:
        """Shapes of ``tree`` with ``shardings``, a tree like it or one sharding for all."""
        if isinstance(shardings, NamedSharding):
            shardings = jax.tree.map(lambda _: shardings, tree)
        return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                            tree, shardings)

    def check_batch(self, batch_size: int, field: str = "config.batch_size") -> None:
        """Raises ValueError unless the devices divide ``batch_size``."""
        if batch_size % self.devices:
            data, fsdp = (self.mesh.shape[axis] for axis in AXES)
            raise ValueError(f"{field} must be a multiple of the {self.devices} devices of the mesh "
                             f"(config.mesh: data {data} x fsdp {fsdp}); got {batch_size}.")


def put(array: ArrayLike, sharding: NamedSharding) -> Array:
    """A NumPy array that every process has whole, as a global array; each device gets its part only."""
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def start_processes(coordinator: str | None = None, process_id: int | None = None, num_processes: int | None = None,
                    heartbeat_timeout_seconds: int = 100) -> None:
    """Joins this process to the others of a run; must come before anything else asks JAX for devices.

    Args:
        coordinator: "host:port" of process 0; None: from JAX_COORDINATOR_ADDRESS, or as SLURM, Open MPI, Kubernetes
            or a TPU pod tell JAX.
        process_id, num_processes: which process this is, and of how many; None: from JAX_PROCESS_ID and
            JAX_NUM_PROCESSES, or detected likewise.
        heartbeat_timeout_seconds: after so long without a sign of life from one, the others end. JAX's own default.

    Raises:
        ValueError: some of the three are given and others neither given nor detected, or one is impossible.
    """
    def given(value: Any, name: str, kind: type) -> Any:
        if value is not None or name not in os.environ:
            return value
        try:
            return kind(os.environ[name])
        except ValueError:
            raise ValueError(f"{name} in the environment must be a whole number; got {os.environ[name]!r}.") from None

    coordinator = given(coordinator, "JAX_COORDINATOR_ADDRESS", str)
    _, _, port = (coordinator or "").rpartition(":")
    if coordinator is not None and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"coordinator must be host:port; got {coordinator!r}.")
    try:
        jax.distributed.initialize(coordinator_address=coordinator,
                                   num_processes=given(num_processes, "JAX_NUM_PROCESSES", int),
                                   process_id=given(process_id, "JAX_PROCESS_ID", int),
                                   heartbeat_timeout_seconds=heartbeat_timeout_seconds)
    except ValueError as error:
        raise ValueError("coordinator, process_id and num_processes must be given where neither the environment nor a "
                         f"scheduler tells them, with process_id < num_processes. {error}") from None


def is_first_process() -> bool:
    """Whether this process is the one that writes metrics, figures and messages."""
    return jax.process_index() == 0


def agree(values: Sequence[float]) -> list[float]:
    """The largest of what each process says, entry by entry; of one process, its own.

    Args:
        values: of the same length in every process, which must all call.
    """
    own = np.asarray(values, np.float64)
    if jax.process_count() == 1:
        return own.tolist()
    from jax.experimental import multihost_utils  # Not needed, and slow to import, in one process.
    # As bytes, because float64 would become float32 on the devices.
    words = multihost_utils.process_allgather(np.frombuffer(own.tobytes(), np.uint32))
    return np.asarray(words, np.uint32).reshape(jax.process_count(), -1).view(np.float64).max(axis=0).tolist()
