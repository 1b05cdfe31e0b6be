"""What a compiled program sends between devices, read from its text."""
import dataclasses
import functools
import math
import re

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
          "collective-broadcast")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)"
                     r"|\b(branch_computations)=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}")


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


def _entries(text):
    """Entries of a printed tuple, which may be tuples themselves."""
    entries, depth = [""], 0
    for character in text[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            entries.append("")
        else:
            entries[-1] += character
    return entries


def _array_bytes(text):
    """Bytes of all arrays in a printed type."""
    total = 0
    for element, dimensions in _ARRAY.findall(text):
        size = math.prod(int(dimension.removeprefix("<=")) for dimension in filter(None, dimensions.split(",")))
        # A type's name ends with, or is followed by, its bits: f32, bf16, f8e4m3fn, c64. Tokens have none.
        bits = re.search(r"\d+", element)
        total += size * (8 if element == "pred" else int(bits[0]) if bits else 0) // 8
    return total


def _group_size(line, devices):
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


def _collective(line, match, devices):
    kind, group_size = match[2], _group_size(line, devices)
    # What starts an exchange gives (operands, results, ...); only of an all-reduce are these alike and told once.
    result = _entries(match[1])[1] if match[3] and kind != "all-reduce" else match[1]
    return Collective(kind, _array_bytes(result) * (group_size if kind == "reduce-scatter" else 1), group_size, count=1)


def _called(line):
    """Yields (name, how often) of the computations that an instruction runs."""
    trips = _TRIP_COUNT.search(line)
    for attribute, name, _, names in _CALLED.findall(line):
        if name:
            yield name, int(trips[1]) if trips and attribute == "body" else 1
        for branch in re.findall(r"[\w.\-]+", names):
            yield branch, 1


def collectives(text):
    """The collectives of a compiled program.

    Args:
        text: ``jax.jit(f).lower(...).compile().as_text()``: an optimised module of XLA, for one device of several.

    Returns:
        list of :class:`Collective`, one for each such instruction that a run executes, in the order of the text from
        the entry on; a loop's stand where the loop does.

    Raises:
        ValueError: no module with an entry, or groups of devices in a notation that is not known here.
    """
    header = text.partition("\n")[0]
    devices = 1
    for name in ("replica_count", "num_partitions"):
        if given := re.search(rf"\b{name}=(\d+)", header):
            devices *= int(given[1])
    computations: dict[str, list] = {}
    entry, lines = None, []
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            lines = computations[start[2]] = []
            entry = start[2] if start[1] else entry
        else:
            lines.append(line)
    if entry is None:
        raise ValueError(f"the text must be a compiled module with an ENTRY; it begins {header!r}.")

    @functools.cache
    def within(name):
        found = []
        for line in computations.get(name, ()):  # A start's own computation is printed as one instruction.
            if match := _COLLECTIVE.search(line):
                found.append(_collective(line, match, devices))
            for callee, times in _called(line):
                found += [dataclasses.replace(one, count=times * one.count) for one in within(callee)]
        return tuple(found)

    return list(within(entry))
