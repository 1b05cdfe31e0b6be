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
        images, labels: uint8[m, h, w, c] and int32[m], the data set on every device; or uint8[k, n, h, w, c] and
            int32[k, n], these steps' examples, each on the device that works on it.
        rows: int32[k, n], where in ``images`` each step's examples are; None for the second form.
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
    """The whole data set on every device."""

    def __init__(self, split, layout):
        self._layout = layout
        self._images, self._labels = (layout.put(array, layout.replicated) for array in (split.images, split.labels))

    def pieces(self, order, start):
        """Yields the one Piece of an epoch; ``order`` is int32[steps, n]."""
        del start
        steps = len(order)
        order = self._layout.put(order, self._layout.batch(axis=1))
        yield Piece(self._images, self._labels, order, order, 0, steps)


def _steps_a_piece(split, steps, batch, piece_bytes):
    return int(np.clip(piece_bytes // (batch * split.images[0].nbytes), 1, steps))


class HostFeed:
    """The data set in host memory or mapped from a file; pieces of it are read ahead by Grain's threads.

    A process reads only the examples that its own devices work on.

    Args:
        split: Split of numpy arrays.
        layout: :class:`~morel_jax.sharding.Layout`.
        piece_bytes: size of one piece's images.
    """

    def __init__(self, split, layout, piece_bytes=_PIECE_BYTES):
        self._split, self._layout = split, layout
        self._piece_bytes = piece_bytes

    def pieces(self, order, start):
        """Yields the Pieces of an epoch from step ``start`` on; ``order`` is int32[steps, n]."""
        order = np.asarray(order)
        steps, batch = order.shape
        size = _steps_a_piece(self._split, steps, batch, self._piece_bytes)
        columns = self._layout.batch(axis=1)

        def load(first):
            # The last piece is filled up with its last row: one shape, one compiled program.
            index = order[np.minimum(np.arange(first, first + size), steps - 1)]

            def gathered(array):
                return jax.make_array_from_callback((*index.shape, *array.shape[1:]), columns,
                                                    lambda part: array[index[part[:2]]])

            return Piece(gathered(self._split.images), gathered(self._split.labels), None,
                         self._layout.put(index, columns), first, min(first + size, steps))

        starts = range(start // size * size, steps, size)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        yield from grain.MapDataset.source(list(starts)).map(load).to_iter_dataset(options)


def _on_device(split, placement):
    if placement == "auto":
        return split.images.nbytes <= _room() and jax.process_count() == 1
    return placement == "device"


def build_feed(split, placement, layout):
    """The feed for ``config.data.placement``: ``device``, ``host``, or ``auto`` by the images' size.

    With several processes ``auto`` is ``host``: each then loads only its share.
    """
    return DeviceFeed(split, layout) if _on_device(split, placement) else HostFeed(split, layout)


def abstract_piece(split, steps, placement, layout, batch_size):
    """A Piece of that feed in shapes (ShapeDtypeStruct) with their shardings, to compile for before there are data.

    Args:
        split, placement, layout: as in :func:`build_feed`.
        steps, batch_size: of an epoch.
    """
    columns = layout.batch(axis=1)
    if _on_device(split, placement):
        whole = (jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=layout.replicated)
                 for array in (split.images, split.labels))
        rows = jax.ShapeDtypeStruct((steps, batch_size), np.int32, sharding=columns)
        return Piece(*whole, rows, rows, 0, steps)
    size = _steps_a_piece(split, steps, batch_size, _PIECE_BYTES)
    images, labels = (jax.ShapeDtypeStruct((size, batch_size, *array.shape[1:]), array.dtype, sharding=columns)
                      for array in (split.images, split.labels))
    return Piece(images, labels, None, labels, 0, size)
