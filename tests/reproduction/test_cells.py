import collections

import numpy as np
import pytest

from morel_jax.reproduction.cells import Cell, parse, printed


def test_all_cells_are_there():
    counted = collections.Counter(cell.table for cell in printed())
    # 16 rows of 12, 16 of 10, 2 of 3, 4 of 12, 4 of 10, 16 of 2, 2 of 12, 2 of 10.
    assert counted == {1: 192, 2: 160, 3: 6, 4: 48, 5: 40, 6: 32, 7: 24, 8: 20}


def test_numbers_as_printed():
    def value(name):
        return printed()[parse(name)]

    assert value("1/cifar10/resnet18/white-box/morel_mart/pgd20/best") == 52.08
    assert value("6/cifar10/resnet18/autoattack/trades/autoattack/last") == 46.33
    assert value("2/cifar100/wide_resnet34_10/transfer/morel_mart/avg_robust/last") == 60.28


def test_the_row_that_is_lost_has_no_numbers():
    lost = {(cell.table, cell.dataset, cell.architecture, cell.method) for cell, value in printed().items()
            if value is None}
    assert lost == {(1, "cifar100", "resnet18", "morel_mart")}


def test_averages_are_those_of_the_four_attacks():
    for cell, value in printed().items():
        if cell.attack == "avg_robust" and value is not None:
            four = [printed()[Cell(*{**vars(cell), "attack": attack}.values())]
                    for attack in ("fgsm", "pgd20", "pgd100", "cw_linf")]
            np.testing.assert_allclose(value, np.mean(four), atol=0.0101)


def test_names_and_cells():
    for cell in printed():
        assert parse(cell.name) == cell


@pytest.mark.parametrize(("name", "would_go_on"), [
    ("9", "where 1, 2, 3"),
    ("1/mnist/resnet18", "where 1/cifar10, 1/cifar100 would"),
    ("6/cifar10/resnet18/square/mart/pgd20/best", "where 6/cifar10/resnet18/square/mart/square would"),
])
def test_unknown_cells(name, would_go_on):
    with pytest.raises(ValueError, match=would_go_on):
        parse(name)
