import numpy as np
import pytest

from morel_jax.data.subset import stratified_order, stratified_rows


@pytest.mark.parametrize("counts", [(20,) * 10, (90, *[1] * 9), (1, 2, 4, 8, 16, 32), (7,), (50, 50, 3)])
@pytest.mark.parametrize("sort", [True, False])
def test_every_beginning_has_each_class_in_its_share_rounded_down_or_up(counts, sort):
    labels = np.repeat(np.arange(len(counts)), counts)
    if not sort:
        labels = np.random.default_rng(0).permutation(labels)
    order = stratified_order(labels)
    assert sorted(order) == list(range(len(labels)))
    taken = np.cumsum(labels[order][:, None] == np.arange(len(counts)), axis=0)
    share = np.arange(1, len(labels) + 1)[:, None] * np.array(counts) / len(labels)
    assert (np.floor(share - 1e-9) <= taken).all()
    assert (taken <= np.ceil(share + 1e-9)).all()


def test_the_order_is_fixed():
    # Written down once: a ledger of some examples is extended by later calls, whatever the version.
    assert stratified_order(np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])).tolist() == [5, 1, 8, 3, 6, 0, 4, 9, 2, 7]


def test_within_a_class_rows_come_from_everywhere():
    labels = np.repeat([3, 5], 500)
    first = np.sort(stratified_order(labels)[:100])
    assert np.sum(first < 500) == 50
    assert 200 < np.mean(first[first < 500]) < 300
    assert not np.array_equal(np.diff(stratified_order(np.zeros(100, int))), np.ones(99))


def test_a_part_keeps_the_data_sets_order_and_0_is_all():
    labels = np.repeat([0, 1], 10)
    np.testing.assert_array_equal(stratified_rows(labels, 0), np.arange(20))
    np.testing.assert_array_equal(stratified_rows(labels, 20), np.arange(20))
    np.testing.assert_array_equal(stratified_rows(labels, 6), np.sort(stratified_order(labels)[:6]))
