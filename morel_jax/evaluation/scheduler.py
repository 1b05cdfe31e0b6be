"""Assigns examples to blocks: hands out those that wait, and merges half-empty blocks once none wait."""
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int


class Scheduler:
    """The examples that wait, and those on their way from one block to another of the same device.

    Args:
        indices: the examples.
        devices: the device of each block.
    """

    def __init__(self, indices: Int[np.ndarray, " m"], devices: Sequence[Any]) -> None:
        self.devices, self.stop = devices, threading.Event()
        self._indices, self._next, self._lock = indices, 0, threading.Lock()
        self._room = [0] * len(devices)  # Rows that each block can still be given; 0 while examples wait.
        self._parcels: list[list] = [[] for _ in devices]

    def take(self, count: int) -> Int[np.ndarray, " k"]:
        """Hands out at most ``count`` of the waiting examples."""
        with self._lock:
            taken = self._indices[self._next:self._next + count]
            self._next += len(taken)
            return taken

    def has_waiting(self) -> bool:
        """Whether examples wait."""
        return self._next < len(self._indices)

    def announce(self, block: int, free: int) -> None:
        """Notes that ``block`` has ``free`` rows and no waiting examples to fill them with."""
        with self._lock:
            self._room[block] = max(0, free - sum(count for count, _ in self._parcels[block]))

    def give(self, block: int, parcel: Any, count: int) -> bool:
        """Gives the ``count`` examples of ``block`` to the fullest block of its device that has room for them.

        Returns whether there is one; ``block`` must then end. ``parcel`` is what the receiver needs to continue.
        """
        with self._lock:
            fitting = [other for other, device in enumerate(self.devices)
                       if other != block and device == self.devices[block] and self._room[other] >= count]
            if self._parcels[block] or not fitting:
                return False
            receiver = min(fitting, key=lambda other: self._room[other])
            self._room[receiver] -= count
            self._room[block] = 0
            self._parcels[receiver].append((count, parcel))
            return True

    def receive(self, block: int) -> list[Any]:
        """The parcels given to ``block`` since it last asked, as a list."""
        with self._lock:
            parcels, self._parcels[block] = self._parcels[block], []
        return [parcel for _, parcel in parcels]

    def leave(self, block: int) -> bool:
        """Whether ``block``, which holds no examples, may end; False if it has just been given some."""
        with self._lock:
            self._room[block] = 0
            return not self._parcels[block]
