"""The text of a compiled program: its instructions, and how often one run executes each.

CPU, GPU and TPU print the same notation with different habits: a GPU's text tells how many turns a loop takes, a TPU's
does not, and each has its own way to start an exchange that ends elsewhere.
"""
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)"
                     r"|\b(branch_computations)=\{([^}]*)\}")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
Loops = tuple[tuple[str, int | None], ...]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: of its result.
        type: of its result, as printed.
        opcode: such as ``fusion``; what begins an exchange or a copy ends with ``-start``.
        line: all of it.
        is_root: whether its result is the computation's.
    """
    name: str
    type: str
    opcode: str
    line: str
    is_root: bool = False

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operands."""
        text = self.line.partition(f" {self.opcode}(")[2]
        depth, end = 1, 0
        while depth and end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        return re.findall(r"%([\w.\-]+)", text[:end])

    @functools.cached_property
    def called(self) -> list[tuple[str, str]]:
        """(attribute, name) of each computation that it names, such as ("body", "region_1")."""
        found: list[tuple[str, str]] = []
        for attribute, name, _, names in _CALLED.findall(self.line):
            found += [(attribute, name)] if name else [("branch", one) for one in re.findall(r"[\w.\-]+", names)]
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program for one device.

    Attributes:
        header: the first line.
        computations: {name: {instruction's name: Instruction}}.
        entry: name of the computation that runs first.
    """
    header: str
    computations: dict[str, dict[str, Instruction]]
    entry: str


@dataclasses.dataclass(frozen=True)
class Execution:
    """An instruction where it is executed.

    Attributes:
        instruction: Instruction.
        computation: its instructions by name, the operands among them.
        loops: of the loops around it, from the outermost: (name of the loop, turns; None: not known).
    """
    instruction: Instruction
    computation: dict[str, Instruction]
    loops: Loops
    @property
    def count(self) -> int:
        """How often a run executes it, each loop with unknown turns taken as one turn."""
        return math.prod(turns or 1 for _, turns in self.loops)


def parse(text: str) -> Module:
    """The :class:`Module` of ``jax.jit(f).lower(...).compile().as_text()``.

    Raises:
        ValueError: no module with an entry.
    """
    header = text.partition("\n")[0]
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, {}
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = computations[start[2]] = {}
            entry = start[2] if start[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[2]] = Instruction(found[2], found[3], found[4], line, bool(found[1]))
    if entry is None:
        raise ValueError(f"the text must be a compiled module with an ENTRY; it begins {header!r}.")
    return Module(header, computations, entry)


def executions(module: Module, inside: tuple[str, ...] = ("body", "branch", "true_computation", "false_computation")
               ) -> Iterator[Execution]:
    """What a run executes, in the order of the text from the entry on; each branch of a conditional as if taken.

    Args:
        module: Module.
        inside: attributes whose computations are entered, besides those that a ``call`` applies. ``calls`` enters
            fusions.
    """
    def enter(name: str, loops: Loops) -> Iterator[Execution]:
        # A start's own computation may be printed as one instruction, and is then not in the module.
        computation = module.computations.get(name, {})
        for instruction in computation.values():
            yield Execution(instruction, computation, loops)
            for attribute, callee in instruction.called:
                if attribute in ("body", "condition") and attribute in inside:
                    turns = _turns(module, computation, instruction) if attribute == "body" else 1
                    yield from enter(callee, (*loops, (instruction.name, turns)) if attribute == "body" else loops)
                elif attribute in inside or (attribute == "to_apply" and instruction.opcode == "call"):
                    yield from enter(callee, loops)

    yield from enter(module.entry, ())


def _constant(instruction: Instruction | None) -> int | None:
    found = re.search(r" constant\((-?\d+)\)", instruction.line) if instruction else None
    return int(found[1]) if found else None


def _turns(module: Module, computation: dict[str, Instruction], loop: Instruction) -> int | None:
    """Turns of a ``while``: as printed, or from a condition of the form i < n that counts from a constant."""
    if printed := _TURNS.search(loop.line):
        return int(printed[1])
    condition = module.computations.get(dict(loop.called).get("condition", ""), {})
    root = next((one for one in condition.values() if one.is_root), None)
    if root is None or root.opcode != "compare" or "direction=LT" not in root.line or len(root.operands) != 2:
        return None
    counter, bound = (condition.get(name) for name in root.operands)
    stop = _constant(bound)
    index = counter and re.search(r"index=(\d+)", counter.line)
    carried = computation.get(loop.operands[0]) if loop.operands else None
    if stop is None or not index or carried is None or carried.opcode != "tuple":
        return None
    first = computation.get(carried.operands[int(index[1])])
    while first is not None and first.opcode in ("copy", "copy-done", "copy-start", "bitcast"):
        first = computation.get(first.operands[0])
    start = _constant(first)
    return None if start is None else stop - start


def arrays(text: str) -> list[tuple[str, list[int]]]:
    """(element type, dimensions) of each array in a printed type."""
    return [(element, [int(dimension.removeprefix("<=")) for dimension in filter(None, dimensions.split(","))])
            for element, dimensions in _ARRAY.findall(text)]


def size_in_bytes(text: str) -> int:
    """Bytes of all arrays in a printed type."""
    total = 0
    for element, dimensions in arrays(text):
        # A type's name ends with, or is followed by, its bits: f32, bf16, f8e4m3fn, c64. Tokens have none.
        bits = re.search(r"\d+", element)
        total += math.prod(dimensions) * (8 if element == "pred" else int(bits[0]) if bits else 0) // 8
    return total


def entries(text: str) -> list[str]:
    """Entries of a printed tuple, which may be tuples themselves."""
    found, depth = [""], 0
    for character in text[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return found
