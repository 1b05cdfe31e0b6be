"""How long a step would take on a chip: an estimate from what each operation computes and moves, not a measurement."""
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from morel_jax.targets import hlo, kernels
from morel_jax.targets.devices import Chip

# Shares of the published peaks that are taken to be attained.
_FLOPS_SHARE, _BANDWIDTH_SHARE = 0.35, 0.85
# Of a GPU, seconds: the shortest call of a library (cuDNN's convolutions), the shortest other kernel, and what each
# takes to launch.
_CALL_FLOOR, _FLOOR, _CALL_LAUNCH, _LAUNCH = 4e-6, 2.2e-6, 8e-6, 2.5e-6
# Arrays in another memory than the device's main one, such as a TPU's fast one.
_ELSEWHERE = re.compile(r"\w+\[[^\]]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SLICING = {"dynamic-slice", "gather", "slice"}
# Passes of a TPU's unit for one float32 product of that precision.
_TPU_PASSES = {"default": 1, "high": 3, "highest": 6}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A roofline estimate of one step on one device; exchanges between devices are not in it.

    Attributes:
        product_seconds: of convolutions and matrix products.
        other_seconds: of all other operations.
        launch_seconds: that the host needs to launch them one by one; None where that is no matter (TPU). It runs
            beside the device's work, and a command buffer (CUDA graph) saves most of it.
        compiler_cycles: of the step, as XLA's own model of a TPU has them; None elsewhere.
        assumptions: what the numbers rest on.
    """
    product_seconds: float
    other_seconds: float
    launch_seconds: float | None
    compiler_cycles: int | None
    assumptions: str

    @property
    def seconds(self) -> float:
        """Of the device's work."""
        return self.product_seconds + self.other_seconds


def _main_memory(text: str) -> int:
    return hlo.size_in_bytes(_ELSEWHERE.sub("", text))


def moved_bytes(module: hlo.Module, execution: hlo.Execution) -> int:
    """Bytes of main memory that an operation reads and writes; of an array that it only slices, the slices."""
    instruction, computation = execution.instruction, execution.computation
    (fused, *_) = [*(module.computations.get(name, {}) for attribute, name in instruction.called
                     if attribute == "calls"), {}]
    inner = fused or {instruction.name: instruction}
    read = []
    for number, operand in enumerate(instruction.operands):
        text = computation[operand].type if operand in computation else ""
        name = next((one.name for one in fused.values() if f" parameter({number})" in one.line), operand)
        users = [one for one in inner.values() if name in one.operands]
        sliced = users and all(one.opcode in _SLICING and one.operands[0] == name for one in users)
        read.append(min(_main_memory(text), sum(_main_memory(one.type) for one in users)) if sliced
                    else _main_memory(text))
    return sum(read) + _main_memory(instruction.type)


def _dimensions(text: str) -> list[int]:
    return hlo.arrays(text)[0][1]


def _convolution_flops(instruction: hlo.Instruction, types: Sequence[str]) -> int:
    """Of a convolution or one of its gradients: every output's position meets the whole kernel."""
    (output_labels,) = re.findall(r"dim_labels=[\w?]+->([\w?]+)", instruction.line)
    kernel, output = types[1], instruction.type
    if "BackwardInput" in instruction.line:
        output = types[0]
    elif "BackwardFilter" in instruction.line:
        kernel, output = instruction.type, types[1]
    positions = math.prod(size for size, label in zip(_dimensions(output), output_labels, strict=True) if label != "f")
    return 2 * positions * math.prod(_dimensions(kernel))


def _dot_flops(instruction: hlo.Instruction, types: Sequence[str]) -> int:
    contracted = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([^}\]]*)', instruction.line)
    left = _dimensions(types[0])
    axes = [int(axis) for axis in re.findall(r"\d+", contracted[1])] if contracted else []
    return 2 * math.prod(_dimensions(instruction.type)) * math.prod(left[axis] for axis in axes)


def _product_seconds(instruction: hlo.Instruction, computation: Mapping[str, hlo.Instruction], chip: Chip) -> float:
    """Of the arithmetic of one convolution or product at a share of the chip's peak."""
    types = [computation[name].type for name in instruction.operands]
    flops = (_convolution_flops if "dim_labels=" in instruction.line else _dot_flops)(instruction, types)
    precision = re.search(r"operand_precision=\{(\w+)|operand_precision\":\[\"(\w+)", instruction.line)
    asked = (precision[1] or precision[2]).lower() if precision else "default"
    element = hlo.arrays(types[0])[0][0]
    if element in ("bf16", "f16"):
        peak = chip.peaks["bfloat16"]
    elif chip.platform == "tpu":
        peak = chip.peaks["bfloat16"] / _TPU_PASSES.get(asked, 1)
    else:
        peak = chip.peaks["float32" if asked == "highest" else "tf32"]
    return flops / (_FLOPS_SHARE * peak)


def _products(module: hlo.Module, execution: hlo.Execution) -> list[tuple[hlo.Instruction, dict[str, hlo.Instruction]]]:
    """(instruction, its computation) of each convolution and product that an operation does."""
    instruction = execution.instruction
    if instruction.opcode in ("convolution", "dot", "custom-call"):
        return [(instruction, execution.computation)]
    found = []
    for attribute, name in instruction.called:
        if attribute == "calls":
            fused = module.computations.get(name, {})
            for inner in fused.values():
                found += _products(module, hlo.Execution(inner, fused, ()))
    return [(one, fused) for one, fused in found if one.opcode in ("convolution", "dot")]


def estimate(module: hlo.Module, step: Sequence[hlo.Execution], chip: Chip) -> Estimate:
    """The :class:`Estimate` of the executions ``step``."""
    is_gpu = chip.platform == "cuda"
    products = others = launches = 0.0
    cycles = 0
    for execution in step:
        kind = kernels.kind(module, execution.instruction)
        if kind == "collective":
            continue
        calls_library = execution.instruction.opcode == "custom-call"
        seconds = max(moved_bytes(module, execution) / (_BANDWIDTH_SHARE * chip.bandwidth),
                      is_gpu * (_CALL_FLOOR if calls_library else _FLOOR))
        if kind in ("convolution", "matrix product"):
            arithmetic = sum(_product_seconds(one, near, chip) for one, near in _products(module, execution))
            products += execution.count * max(seconds, arithmetic)
        else:
            others += execution.count * seconds
        launches += execution.count * (_CALL_LAUNCH if calls_library else _LAUNCH)
        if told := _CYCLES.search(execution.instruction.line):
            cycles += execution.count * int(told[1])
    assumptions = (f"{_FLOPS_SHARE:.0%} of the peak of its arithmetic, {_BANDWIDTH_SHARE:.0%} of {chip.bandwidth:.4g} "
                   "bytes/s")
    if is_gpu:
        assumptions += (f", at least {_CALL_FLOOR * 1e6:g} us a call of a library and {_FLOOR * 1e6:g} us any other "
                        f"kernel, whose launches take {_CALL_LAUNCH * 1e6:g} and {_LAUNCH * 1e6:g} us")
    return Estimate(products, others, launches if is_gpu else None, None if is_gpu else cycles,
                    assumptions + ("" if is_gpu else ", no time between operations") + "; no exchanges")
