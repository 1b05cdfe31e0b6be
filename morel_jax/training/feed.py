"""Training images for the compiled step: on the device when they fit, streamed from the host otherwise."""
import math
import operator
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int32

from morel_jax.data import Split
from morel_jax.sharding import put
from morel_jax.training.epoch import Piece

Order = Int32[np.ndarray, "*slots steps n"]  # The examples of each step of an epoch; stacked runs have a first axis.

# A streamed piece: large enough that moving it costs little beside its steps, small enough that three wait in memory.
_PIECE_BYTES = 64 * 2**20
# With a device that does not tell its memory, such as a CPU: what surely fits.
_DEFAULT_ROOM = 4 * 2**30
# Share of the device that training images may take; the rest is for the network.
_SHARE_OF_DEVICE = 0.25


def _room(device: jax.Device) -> float:
    try:
        stats = device.memory_stats() or {}
    except RuntimeError:  # One that is not there, for which a program is compiled all the same.
        stats = {}
    return stats["bytes_limit"] * _SHARE_OF_DEVICE if "bytes_limit" in stats else _DEFAULT_ROOM


class DeviceFeed:
    """The whole data set on every device.

    Args:
        split: to train on.
        whole: of what every device has whole.
        cut: of arrays with rows for each step's examples.
    """

    def __init__(self, split: Split, whole: NamedSharding, cut: NamedSharding) -> None:
        self._cut = cut
        # Flat: a TPU pads the last two axes, and would do so to the whole data set at each dispatch.
        self._images = put(np.asarray(split.images).reshape(len(split.images), -1), whole)
        self._labels = put(split.labels, whole)
        self._image_shape = split.images.shape[1:]

    def pieces(self, order: Order, start: int) -> Iterator[tuple[Piece, int, int]]:
        """Yields the one piece of an epoch, as :meth:`HostFeed.pieces` has it."""
        del start
        steps = order.shape[-2]
        rows = put(order, self._cut)
        yield Piece(self._images, self._labels, rows, rows, self._image_shape), 0, steps


def _steps_per_piece(split: Split, steps: int, examples: int, piece_bytes: int) -> int:
    return int(np.clip(piece_bytes // (examples * split.images[0].nbytes), 1, steps))


class HostFeed:
    """The data set in host memory or mapped from a file; pieces of it are read ahead by Grain's threads.

    A process reads only the examples that its own devices work on.

    Args:
        split: to train on.
        cut: of arrays with rows for each step's examples.
        piece_bytes: size of one piece's images.
    """

    def __init__(self, split: Split, cut: NamedSharding, piece_bytes: int = _PIECE_BYTES) -> None:
        self._split, self._cut, self._piece_bytes = split, cut, piece_bytes

    def pieces(self, order: Order, start: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces of an epoch from step ``start`` on.

        Args:
            order: examples of each step; of stacked runs pieces have the first axis too.
            start: step of the epoch.

        Yields:
            (Piece, the step that its row 0 belongs to, the step that it ends before).
        """
        import grain  # Slow to import, and needed only here.

        order = np.asarray(order)
        *slots, steps, batch = order.shape
        size = _steps_per_piece(self._split, steps, math.prod(slots) * batch, self._piece_bytes)

        def load(first: int) -> tuple[Piece, int, int]:
            # The last piece is filled up with its last row: one shape, one compiled program.
            index = np.take(order, np.minimum(np.arange(first, first + size), steps - 1), axis=-2)

            def gathered(array: np.ndarray) -> Array:
                def rows(part: Any) -> np.ndarray:
                    return array[index[part[:index.ndim]]]

                return jax.make_array_from_callback((*index.shape, *array.shape[1:]), self._cut, rows)

            return (Piece(gathered(self._split.images), gathered(self._split.labels), None, put(index, self._cut)),
                    first, min(first + size, steps))

        starts = range(start // size * size, steps, size)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        yield from grain.MapDataset.source(list(starts)).map(load).to_iter_dataset(options)


def _on_device(split: Split, placement: str, whole: NamedSharding) -> bool:
    if placement == "auto":
        devices: list[jax.Device] = sorted(whole.device_set, key=operator.attrgetter("id"))
        one_process = len({device.process_index for device in devices}) == 1
        return one_process and split.images.nbytes <= _room(devices[0])
    return placement == "device"


def build_feed(split: Split, placement: str, whole: NamedSharding, cut: NamedSharding) -> DeviceFeed | HostFeed:
    """The feed for ``config.data.placement``: ``device``, ``host``, or ``auto`` by the images' size.

    With several processes ``auto`` is ``host``: each then loads only its share.

    Args:
        split: to train on.
        placement: see above.
        whole, cut: as in :class:`DeviceFeed`.
    """
    return DeviceFeed(split, whole, cut) if _on_device(split, placement, whole) else HostFeed(split, cut)


def abstract_piece(split: Split, steps: int, batch_size: int, placement: str, whole: NamedSharding,
                   cut: NamedSharding) -> Piece:
    """A Piece of that feed in shapes (ShapeDtypeStruct) with their shardings, to compile for before there are data.

    Args:
        split, placement, whole, cut: as in :func:`build_feed`.
        steps, batch_size: of an epoch.
    """
    if _on_device(split, placement, whole):
        count, *image_shape = split.images.shape
        images = jax.ShapeDtypeStruct((count, math.prod(image_shape)), split.images.dtype, sharding=whole)
        labels = jax.ShapeDtypeStruct((count,), split.labels.dtype, sharding=whole)
        rows = jax.ShapeDtypeStruct((steps, batch_size), np.int32, sharding=cut)
        return Piece(images, labels, rows, rows, tuple(image_shape))
    size = _steps_per_piece(split, steps, batch_size, _PIECE_BYTES)
    images, labels = (jax.ShapeDtypeStruct((size, batch_size, *array.shape[1:]), array.dtype, sharding=cut)
                      for array in (split.images, split.labels))
    return Piece(images, labels, None, labels)
