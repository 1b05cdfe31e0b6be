"""Who gives its examples to whom once none wait: two blocks that are half empty cost as much as two full ones."""
import threading


class Handover:
    """The blocks that are worked on at a time, and the examples on their way from one to another.

    Only workers of the same device give to each other: those of two devices lose no time by being two.

    Args:
        devices: the device of each worker.
    """

    def __init__(self, devices):
        self._devices, self._lock = devices, threading.Lock()
        self._room = [0] * len(devices)  # Rows that each worker can still be given; 0 while examples wait.
        self._given: list[list] = [[] for _ in devices]

    def announce(self, worker, free):
        """Says that ``worker`` has ``free`` rows and will take no more waiting examples; or, with 0, that it ended."""
        with self._lock:
            self._room[worker] = max(0, free - sum(count for count, _ in self._given[worker]))

    def take(self, worker):
        """What others have given to ``worker`` since it last asked: list of parcels."""
        with self._lock:
            given, self._given[worker] = self._given[worker], []
        return [parcel for _, parcel in given]

    def leave(self, worker):
        """Whether ``worker``, which holds no examples, may end; False if it has just been given some."""
        with self._lock:
            self._room[worker] = 0
            return not self._given[worker]

    def give(self, worker, parcel, count):
        """Gives all examples of ``worker`` to the fullest block of its device that has room for them.

        Args:
            worker: the giver's number.
            parcel: whatever the receiver needs to go on with them.
            count: how many examples, rows of a block, they are.

        Returns:
            whether somebody gets them; ``worker`` must then end.
        """
        with self._lock:
            if self._given[worker]:
                return False
            fitting = [other for other, device in enumerate(self._devices)
                       if other != worker and device == self._devices[worker] and self._room[other] >= count]
            if not fitting:
                return False
            receiver = min(fitting, key=lambda other: self._room[other])
            self._room[receiver] -= count
            self._room[worker] = 0
            self._given[receiver].append((count, parcel))
            return True
