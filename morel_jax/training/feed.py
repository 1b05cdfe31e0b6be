"""Training images for the compiled step: on the device when they fit, streamed from the host otherwise."""
import dataclasses
from typing import Any

import grain
import jax
import numpy as np

# A streamed piece: large enough that moving it costs little beside its steps, small enough that three wait in memory.
_PIECE_BYTES = 64 * 2**20
# Without a device that tells its memory (a CPU): what surely fits.
_DEFAULT_ROOM = 4 * 2**30
# Share of the device that training images may take; the rest is for the network.
_SHARE_OF_DEVICE = 0.25


@dataclasses.dataclass(frozen=True)
class Piece:
    """Steps of an epoch, in the form that ``train_epoch`` takes.

    Attributes:
        images, labels: uint8[m, h, w, c] and int32[m] on the device.
        rows: int32[k, n], where in ``images`` each step's examples are.
        index: int32[k, n], the same examples' places in the data set.
        first, stop: the epoch's steps that row 0 belongs to and that the piece ends before.
    """
    images: Any
    labels: Any
    rows: Any
    index: Any
    first: int
    stop: int


def _room():
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["bytes_limit"] * _SHARE_OF_DEVICE if "bytes_limit" in stats else _DEFAULT_ROOM


class DeviceFeed:
    """The whole data set on the device."""

    def __init__(self, split):
        self._images, self._labels = jax.device_put((split.images, split.labels))

    def pieces(self, order, start):
        """Yields the one Piece of an epoch; ``order`` is int32[steps, n]."""
        del start
        yield Piece(self._images, self._labels, order, order, 0, len(order))


class HostFeed:
    """The data set in host memory or mapped from a file; pieces of it are read ahead by Grain's threads.

    Args:
        split: Split of numpy arrays.
        piece_bytes: size of one piece's images.
    """

    def __init__(self, split, piece_bytes=_PIECE_BYTES):
        self._split = split
        self._piece_bytes = piece_bytes

    def pieces(self, order, start):
        """Yields the Pieces of an epoch from step ``start`` on; ``order`` is int32[steps, n]."""
        order = np.asarray(order)
        steps, batch = order.shape
        size = int(np.clip(self._piece_bytes // (batch * self._split.images[0].nbytes), 1, steps))
        rows = np.arange(size * batch, dtype=np.int32).reshape(size, batch)

        def load(first):
            # The last piece is filled up with its last row: one shape, one compiled program.
            index = order[np.minimum(np.arange(first, first + size), steps - 1)]
            images, labels = self._split.images[index.ravel()], self._split.labels[index.ravel()]
            return Piece(*jax.device_put((images, labels, rows, index)), first, min(first + size, steps))

        starts = range(start // size * size, steps, size)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        yield from grain.MapDataset.source(list(starts)).map(load).to_iter_dataset(options)


def build_feed(split, placement):
    """The feed for ``config.data.placement``: ``device``, ``host``, or ``auto`` by the images' size."""
    if placement == "auto":
        placement = "device" if split.images.nbytes <= _room() else "host"
    return DeviceFeed(split) if placement == "device" else HostFeed(split)


def epoch_order(key, epoch, count, batch_size):
    """A permutation of the data set cut into batches: int32[count // batch_size, batch_size].

    It depends on key and epoch alone; the last, incomplete batch is dropped.
    """
    steps = count // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return order[:steps * batch_size].reshape(steps, batch_size).astype(np.int32)
