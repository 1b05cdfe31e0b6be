"""What a compiled program is and needs, for people and for machines."""
import collections
import dataclasses
from typing import Any

from morel_jax.targets.collectives import Collective
from morel_jax.targets.devices import Chip
from morel_jax.targets.kernels import Kernels
from morel_jax.targets.roofline import Estimate


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a run's compiled program is and needs.

    Attributes:
        title: network, method, data set and batch.
        target: as asked for, such as ``h100:8``; None: the devices at hand.
        devices: how many it was compiled for, and their kind.
        mesh: {axis: devices along it}.
        classifier_parameters, embedding_parameters: how many; the second only in training.
        flops: of a step's matrix products and convolutions, over all devices; see
            :func:`~morel_jax.targets.flops.count_flops`.
        batch_size: images of a step, over all devices.
        kernels: of one device.
        bytes_accessed: that a step's operations read and write on one device, each its operands and results; turns of
            loops counted.
        arguments, outputs, temporary, aliased: bytes on one device: of the program's arguments (state and data), of
            its results, of what it needs meanwhile, and of results that take arguments' places.
        collectives: of a step, for one device.
        compile_seconds: that tracing and compiling took here.
        command_buffers: of a GPU's program, how many there are (each is launched as one), and how many operations of
            the program's text are in none: {"count": int, "operations_outside": int}; None elsewhere.
        chip: what is published of the devices; None if they are not in ``devices.CHIPS``.
        estimate: of a step on such a chip.
    """
    title: str
    target: str | None
    devices: tuple[int, str]
    mesh: dict[str, int]
    classifier_parameters: int
    embedding_parameters: int
    flops: int
    batch_size: int
    kernels: Kernels
    bytes_accessed: int
    arguments: int
    outputs: int
    temporary: int
    aliased: int
    collectives: tuple[Collective, ...]
    compile_seconds: float
    command_buffers: dict[str, int] | None = None
    chip: Chip | None = None
    estimate: Estimate | None = None

    @property
    def peak(self) -> int:
        """Bytes that one device must have for the program."""
        return self.arguments + self.outputs + self.temporary - self.aliased

    @property
    def collective_totals(self) -> dict[tuple[str, int], tuple[int, int]]:
        """{(kind, group size): (how many a step, their bytes)}, sorted."""
        totals: dict[tuple[str, int], tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
        for one in self.collectives:
            count, size = totals[one.kind, one.group_size]
            totals[one.kind, one.group_size] = count + one.count, size + one.count * one.bytes
        return dict(sorted(totals.items()))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; bytes and seconds are of one device and one step."""
        count, kind = self.devices
        return {
            "title": self.title,
            "target": self.target,
            "devices": {"count": count, "kind": kind, "mesh": self.mesh},
            "parameters": {"classifier": self.classifier_parameters, "embedding": self.embedding_parameters},
            "batch_size": self.batch_size,
            "flops": self.flops,
            "kernels": dataclasses.asdict(self.kernels),
            "command_buffers": self.command_buffers,
            "bytes_accessed": self.bytes_accessed,
            "argument_bytes": self.arguments,
            "output_bytes": self.outputs,
            "temporary_bytes": self.temporary,
            "aliased_bytes": self.aliased,
            "peak_bytes": self.peak,
            "memory_bytes": self.chip.memory if self.chip else None,
            "fits": self.peak <= self.chip.memory if self.chip else None,
            "collectives": [{"kind": kind, "group_size": size, "count": count, "bytes": total}
                            for (kind, size), (count, total) in self.collective_totals.items()],
            "compile_seconds": round(self.compile_seconds, 1),
            "estimate": {"seconds": self.estimate.seconds} | vars(self.estimate) if self.estimate else None,
        }

    def _estimate_rows(self) -> list[tuple[str, str]]:
        if self.estimate is None:
            return []
        ms, found = 1e3 * self.estimate.seconds, self.estimate
        text = (f"{ms:.3g} ms a step ({1e3 * found.product_seconds:.3g} in convolutions and products), "
                f"{self.batch_size / found.seconds:,.0f} images/s")
        if found.launch_seconds is not None:
            text += f"; {1e3 * found.launch_seconds:.3g} ms to launch it all one by one"
        if found.compiler_cycles is not None:
            text += f"; XLA's own model has {found.compiler_cycles:,} cycles"
        return [("roofline estimate", text), ("it assumes", found.assumptions)]

    def to_text(self) -> str:
        """A short table for people; MiB are 2**20 bytes."""
        count, kind = self.devices
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        embedding = f" + {self.embedding_parameters:,} embedding space" if self.embedding_parameters else ""
        iteration = self.kernels.attack_iteration
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in self.kernels.by_kind.items())
        rows = [
            ("compiled for", f"{count} {kind}" + (f" (mesh: {mesh})" if mesh else "")),
            ("parameters", f"{self.classifier_parameters:,} classifier{embedding}"),
            ("FLOPs", f"{self.flops:.4g} per step, {self.flops / self.batch_size:.4g} per image, in products and "
                      "convolutions; a multiply-add is 2"),
            ("operations", f"{self.kernels.step:,} per step on each device"
                           + (f", {iteration:,} per attack iteration" if iteration else "") + f": {kinds}"),
        ]
        if self.command_buffers is not None:
            rows.append(("command buffers", f"{self.command_buffers['count']}, and outside of them "
                                            f"{self.command_buffers['operations_outside']:,} operations"))
        rows += [
            ("bytes accessed", f"{_mib(self.bytes_accessed)} per step and device, of every operation"),
            ("peak memory", f"{_mib(self.peak)} per device: arguments {_mib(self.arguments)}, temporary "
                            f"{_mib(self.temporary)}, results in neither {_mib(self.outputs - self.aliased)}"),
        ]
        if self.chip is not None:
            verb = "fits in" if self.peak <= self.chip.memory else "DOES NOT FIT in"
            rows.append(("device memory", f"{verb} {_mib(self.chip.memory)}"))
        rows += [(kind, f"{_mib(size)} a step in {number:,} exchanges of {group_size} devices")
                 for (kind, group_size), (number, size) in self.collective_totals.items()]
        if not self.collectives:
            rows.append(("collectives", "none"))
        rows += [*self._estimate_rows(), ("compiled in", f"{self.compile_seconds:.1f} s")]
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.title, *(f"{name:{width}}  {value}" for name, value in rows)])


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"
