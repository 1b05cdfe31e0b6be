import jax
import numpy as np
import pytest

from morel_jax.data import Split, load_extra
from morel_jax.data.shuffle import epoch_order
from morel_jax.sharding import Layout, make_mesh
from morel_jax.training.feed import DeviceFeed, HostFeed, abstract_piece, build_feed
from tests.small import images_and_labels

KEY = jax.random.key(0)
LAYOUT = Layout(make_mesh())
WHOLE, CUT = LAYOUT.replicated, LAYOUT.batch(axis=1)


def split(count=50):
    return Split(*images_and_labels(count))


def test_an_epochs_order_is_a_permutation_cut_into_batches():
    order = np.asarray(epoch_order(KEY, 1, 50, 8))
    assert order.shape == (6, 8)
    assert len(np.unique(order)) == 48
    assert not np.array_equal(order, epoch_order(KEY, 2, 50, 8))
    np.testing.assert_array_equal(order, epoch_order(KEY, 1, 50, 8))


def data_shape(piece):
    return piece.image_shape or piece.images.shape[-3:]


def batches(feed, order, start):
    """What each step gets, by the epoch's step."""
    found = {}
    for piece, first, stop in feed.pieces(order, start):
        for step in range(max(first, start), stop):
            row = step - first
            place = row if piece.rows is None else np.asarray(piece.rows[row])
            images = np.asarray(piece.images)[place].reshape(-1, *data_shape(piece))
            found[step] = (images, np.asarray(piece.labels)[place],
                           np.asarray(piece.index[row]))
    return found


@pytest.mark.parametrize("start", [0, 3, 5])
@pytest.mark.parametrize("steps_a_piece", [1, 4, 100])
def test_streamed_batches_are_those_of_the_device(start, steps_a_piece):
    data = split()
    order = epoch_order(KEY, 1, 50, 8)
    streamed = batches(HostFeed(data, CUT, piece_bytes=steps_a_piece * 8 * data.images[0].nbytes), order, start)
    resident = batches(DeviceFeed(data, WHOLE, CUT), order, start)
    assert list(streamed) == list(range(start, 6))
    for step, got in streamed.items():
        for ours, theirs in zip(got, resident[step], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(got[0], data.images[np.asarray(order)[step]])


@pytest.mark.parametrize("placement", ["device", "host"])
def test_extra_images_are_taken_from_their_files(tmp_path, placement):
    own, parts = split(), [images_and_labels(count, seed=count) for count in (9, 4)]
    for number, (images, labels) in enumerate(parts):
        np.savez(tmp_path / f"{number}.npz", image=images, label=labels)
    data = load_extra(tmp_path, own, 4)
    order = epoch_order(KEY, 1, 50, 8, extra=13, extra_share=0.75)
    whole = [np.concatenate([one, *more]) for one, *more in zip((own.images, own.labels), *parts, strict=True)]
    for step, (images, labels, index) in batches(build_feed(data, placement, WHOLE, CUT), order, 0).items():
        np.testing.assert_array_equal(index, order[step])
        np.testing.assert_array_equal(images, whole[0][order[step]])
        np.testing.assert_array_equal(labels, whole[1][order[step]])
        assert (index >= 50).sum() == 6


def test_pieces_have_one_shape():
    data = split()
    feed = HostFeed(data, CUT, piece_bytes=4 * 8 * data.images[0].nbytes)
    assert {piece.images.shape for piece, *_ in feed.pieces(epoch_order(KEY, 1, 50, 8), 0)} == {(4, 8, 8, 8, 3)}


def test_placement():
    assert isinstance(build_feed(split(), "auto", WHOLE, CUT), DeviceFeed)
    assert isinstance(build_feed(split(), "host", WHOLE, CUT), HostFeed)
    assert isinstance(build_feed(split(), "device", WHOLE, CUT), DeviceFeed)
    huge = Split(np.broadcast_to(np.uint8(0), (40_000_000, 32, 32, 3)),  # 123 GB that take no memory.
                 np.broadcast_to(np.int32(0), (40_000_000,)))
    assert isinstance(build_feed(huge, "auto", WHOLE, CUT), HostFeed)


@pytest.mark.parametrize("placement", ["device", "host"])
def test_an_abstract_piece_is_like_the_feeds(placement):
    abstract = abstract_piece(split(), 6, 8, placement, WHOLE, CUT)
    ((piece, first, stop),) = build_feed(split(), placement, WHOLE, CUT).pieces(epoch_order(KEY, 1, 50, 8), 0)
    for field in ("images", "labels", "rows", "index"):
        expected, array = getattr(abstract, field), getattr(piece, field)
        if expected is None:
            assert array is None
        else:
            assert (expected.shape, expected.dtype) == (array.shape, array.dtype)
            assert expected.sharding.is_equivalent_to(array.sharding, array.ndim)
    assert abstract.image_shape == piece.image_shape
    assert (first, stop) == (0, 6)
