"""Which rows make up a part of a data set: a fixed order, of which any first rows have the classes in proportion."""
import heapq

import numpy as np
from jaxtyping import Int, Int64, UInt64

# Fixes the order. It has no meaning and must never change: a larger part of a data set includes every smaller one.
_SALT = np.uint64(0x6D6F72656C)


def _scrambled(count: int) -> UInt64[np.ndarray, " count"]:
    """0 .. count - 1 without visible order: SplitMix64's mixing, the same on every machine and version."""
    bits = (np.arange(count, dtype=np.uint64) + _SALT) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def stratified_order(labels: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The permutation of a data set's rows whose first k make up the part of k rows.

    For every k, the first k rows have k p rows of a class with share p, rounded down or up. Within a class the rows are
    in a fixed permutation, independent of how the data set is sorted. The order depends on the labels alone: not on a
    seed, NumPy's random streams or the machine.

    Source: the schedule that keeps every share is Tijdeman's ("The chairman assignment problem", 1980), found here by
    earliest deadline; the permutation is a sort by SplitMix64 (Steele et al., OOPSLA 2014) of the row's number.
    """
    shuffled = np.argsort(_scrambled(len(labels)), kind="stable")
    _, own, counts = np.unique(np.asarray(labels)[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(own, kind="stable")
    rank = np.empty(len(labels), np.int64)  # Of a row in its class.
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Earlier, a row would raise its class above its share rounded up; later, leave it below its share rounded down.
    earliest = rank * len(labels) // counts[own]
    latest = -(-(rank + 1) * len(labels) // counts[own])
    coming = np.argsort(earliest, kind="stable")
    release, deadline = earliest[coming].tolist(), latest[coming].tolist()
    ready: list[tuple[int, int]] = []
    order, next_row = [], 0
    for place in range(len(labels)):
        while next_row < len(labels) and release[next_row] <= place:
            heapq.heappush(ready, (deadline[next_row], int(coming[next_row])))
            next_row += 1
        order.append(heapq.heappop(ready)[1])
    return shuffled[order]


def stratified_rows(labels: Int[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " count"]:
    """The part of ``count`` rows of a data set, ascending; 0: all rows."""
    return np.sort(stratified_order(labels)[:count]) if count else np.arange(len(labels))
