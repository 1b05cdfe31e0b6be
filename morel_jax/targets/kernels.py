"""How many operations a compiled program launches, and of what kinds."""
import collections
import dataclasses
import re
from collections.abc import Sequence

from morel_jax.targets import hlo

# They name, pass on or end what another instruction does.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "partition-id", "replica-id",
         "after-all", "opt-barrier", "while", "conditional", "call"}
_COLLECTIVE = re.compile(r"(all-|reduce-scatter|ragged-|collective-)")
_PRODUCTS = {"convolution": "convolution", "dot": "matrix product"}


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Operations that one device launches; on a GPU each is a kernel or a call of a library.

    Attributes:
        step: in one step, inner loops counted with their turns.
        attack_iteration: in one turn of the attack's loop; None where there is none.
        by_kind: of ``step``: ``convolution``, ``matrix product``, ``reduction``, ``elementwise``, ``copy``,
            ``collective`` and ``other``. A fusion has the kind of the first of these that it contains.
    """
    step: int
    attack_iteration: int | None
    by_kind: dict[str, int]


def launched(module: hlo.Module) -> list[hlo.Execution]:
    """The executions of ``module`` that launch something; see :func:`~morel_jax.targets.hlo.executions`."""
    return [one for one in hlo.executions(module)
            if one.instruction.opcode not in _FREE and not one.instruction.opcode.endswith("-done")]


def of_step(executions: Sequence[hlo.Execution]) -> list[hlo.Execution]:
    """Those in the program's loops of unknown length, of which one turn is a step."""
    return [one for one in executions if any(turns is None for _, turns in one.loops)]


def within(module: hlo.Module, instruction: hlo.Instruction) -> list[hlo.Instruction]:
    """The instructions of a fusion, fusions in it included; of any other instruction itself."""
    called = [name for attribute, name in instruction.called if attribute == "calls"]
    if not called:
        return [instruction]
    return [one for name in called for inner in module.computations.get(name, {}).values()
            for one in within(module, inner)]


def kind(module: hlo.Module, instruction: hlo.Instruction) -> str:
    """The kind of an operation; see :class:`Kernels`."""
    if target := re.search(r'custom_call_target="([^"]*)"', instruction.line):
        name = target[1].lower()
        if "conv" in name:
            return "convolution"
        return "matrix product" if any(word in name for word in ("gemm", "matmul", "cublas")) else "other"
    opcodes = {one.opcode.removesuffix("-start") for one in within(module, instruction)}
    for opcode, product in _PRODUCTS.items():
        if opcode in opcodes:
            return product
    if _COLLECTIVE.match(instruction.opcode):
        return "collective"
    if opcodes & {"reduce", "reduce-window"}:
        return "reduction"
    if opcodes - {"parameter", "bitcast"} <= {"copy", "transpose"}:
        return "copy"
    return "other" if opcodes & {"sort", "rng", "rng-bit-generator", "custom-call"} else "elementwise"


def count_kernels(module: hlo.Module, step: Sequence[hlo.Execution], attack: bool = True) -> Kernels:
    """The :class:`Kernels` of a program.

    Args:
        module: the program.
        step: executions that make a step, see :func:`of_step`.
        attack: whether the step has an attack. Its loop is then, of the loops without loops inside, the one with the
            most operations in a turn.
    """
    by_kind: collections.Counter[str] = collections.Counter()
    for one in step:
        by_kind[kind(module, one.instruction)] += one.count
    turns = collections.Counter(one.loops for one in step if one.loops and one.loops[-1][1] is not None)
    innermost = [loops for loops in turns if not any(other[:len(loops)] == loops != other for other in turns)]
    iteration = max((turns[loops] for loops in innermost), default=None) if attack else None
    return Kernels(sum(by_kind.values()), iteration, dict(sorted(by_kind.items())))
