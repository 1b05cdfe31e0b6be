import jax
import numpy as np
import pytest

from morel_jax.data.shuffle import epoch_order

KEY = jax.random.key(3)


def test_own_images_alone_are_a_permutation():
    order = epoch_order(KEY, 2, 11, 4)
    assert order.shape == (2, 4)
    assert len(np.unique(order)) == 8
    np.testing.assert_array_equal(order, epoch_order(KEY, 2, 11, 4))
    assert not np.array_equal(order, epoch_order(KEY, 3, 11, 4))


@pytest.mark.parametrize("extra", [3, 100])
def test_batches_are_mixed_by_their_share(extra):
    order = epoch_order(KEY, 1, 40, 8, extra, 0.75)
    assert order.shape == (5, 8)
    assert (order[:, :2] < 40).all()
    assert ((order[:, 2:] >= 40) & (order[:, 2:] < 40 + extra)).all()
    assert len(np.unique(order[:, :2])) == 10
    _, counts = np.unique(order[:, 2:], return_counts=True)
    assert counts.max() - counts.min() <= 1  # All before any comes again.
