"""What a compiled program sends between devices, read from its text."""
import dataclasses
import math
import re

from morel_jax.targets import hlo

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
          "collective-broadcast")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}")
_EVERYWHERE = ("calls", "condition", "body", "branch", "true_computation", "false_computation")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction by which devices exchange data.

    Attributes:
        kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all``, ``collective-permute`` and the like;
            one that starts here and ends elsewhere has the name of the whole.
        bytes: what one device holds of the arrays in question, before or after, whichever is more: of an all-reduce
            the array, of an all-gather the gathered one, of a reduce-scatter the one that is reduced.
        group_size: devices that exchange with each other.
        count: how often one run of the program executes it. A loop whose number of turns is not known counts as one
            turn, and each branch of a conditional as taken.
    """
    kind: str
    bytes: int
    group_size: int
    count: int


def _group_size(line: str, devices: int) -> int:
    if listed := _LISTED_GROUPS.search(line):
        return len(listed[1].split(","))
    if counted := _COUNTED_GROUPS.search(line):
        return int(counted[1])
    if mesh := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"('[^']*')=(\d+)", mesh[1]))
        # An axis, or the part of one that is named as 'axis':(before)size.
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"('[^']*')(?::\(\d+\)(\d+))?", mesh[2]))
    if pairs := _PAIRS.search(line):
        return len(set(re.findall(r"\d+", pairs[1])))
    if "replica_groups={}" in line:
        return devices
    raise ValueError(f"a collective's groups must be in a known notation; got {line.strip()}")


def _result(instruction: hlo.Instruction, kind: str) -> str:
    """The printed type of what is exchanged. What starts an exchange gives (operands, results, ...).

    Only an all-reduce's operands and results are alike, and then some platforms tell them once.
    """
    if not instruction.opcode.endswith("-start"):
        return instruction.type
    if kind == "all-reduce" and not instruction.type.startswith("(("):
        return instruction.type
    return hlo.entries(instruction.type)[1]


def _collective(execution: hlo.Execution, kind: str, devices: int) -> Collective:
    instruction = execution.instruction
    group_size = _group_size(instruction.line, devices)
    exchanged = hlo.size_in_bytes(_result(instruction, kind)) * (group_size if kind == "reduce-scatter" else 1)
    return Collective(kind, exchanged, group_size, execution.count)


def collectives(text: str | hlo.Module) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
        text: ``jax.jit(f).lower(...).compile().as_text()``: an optimised module of XLA, for one device of several; or
            what :func:`~morel_jax.targets.hlo.parse` made of it.

    Returns:
        One for each such instruction that a run executes, in the order of the text from
        the entry on; a loop's stand where the loop does.

    Raises:
        ValueError: no module with an entry, or groups of devices in a notation that is not known here.
    """
    module = hlo.parse(text) if isinstance(text, str) else text
    devices = 1
    for name in ("replica_count", "num_partitions"):
        if given := re.search(rf"\b{name}=(\d+)", module.header):
            devices *= int(given[1])
    fused = {id(module.computations.get(name)) for computation in module.computations.values()
             for one in computation.values() if one.opcode == "fusion" for _, name in one.called}
    found: list[Collective] = []
    seen: list[tuple] = []
    for execution in hlo.executions(module, _EVERYWHERE):
        kind = execution.instruction.opcode.removesuffix("-start")
        if kind not in _KINDS:
            continue
        if id(execution.computation) in fused:
            # A TPU prints one that runs beside other work in each of the fusions that it spans, all with its channel.
            # Elsewhere several may share a channel.
            place = re.findall(r"channel_id=\d+", execution.instruction.line), execution.loops
            if place in seen:
                continue
            seen.append(place)
        found.append(_collective(execution, kind, devices))
    return found
