import collections

import numpy as np
import pytest

from morel_jax.reproduction.paper import (
    CLAIMS,
    Cell,
    Claim,
    estimate,
    paired_difference,
    parse,
    printed,
    printed_values,
)

A, B, C, D = list(printed())[:4]


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
    assert len({cell.name for cell in printed()}) == len(printed())
    for cell in list(printed())[::25]:
        assert parse(cell.name) == cell


@pytest.mark.parametrize(("name", "nearest"), [
    ("9", "begin with 1, 2, 3"),
    ("1/mnist/resnet18", r"begin with 1/cifar10, 1/cifar100\."),
    ("6/cifar10/resnet18/square/mart/pgd20/best", r"begin with 6/cifar10/resnet18/square/mart/square\."),
])
def test_unknown_cells(name, nearest):
    with pytest.raises(ValueError, match=nearest):
        parse(name)


def test_claims_name_cells_that_are_there():
    for claim in CLAIMS:
        assert claim.pairs
        for pair in claim.pairs:
            assert set(pair) <= printed().keys()


def test_the_papers_own_numbers():
    """As they were compared by hand: which sentences fail, and how many cells are above their baseline's."""
    verdicts = {claim.text: claim.check(printed_values) for claim in CLAIMS}
    assert [text for text, verdict in verdicts.items() if verdict.verdict != "holds"] == [
        "the same, PGD-100: more than 5 points over TRADES and MART (last)",
        "transfer, WRN, CIFAR-100: MOREL(<-MART) is about 4 points above MART and TRADES in Avg-Robust",
        "Tiny-ImageNet: MOREL(<-MART) is always above MART",
    ]
    most = next(verdict for text, verdict in verdicts.items() if text.startswith("MOREL is above its baseline"))
    assert (most.met, most.measured) == (246 - 38 - 2, 246)  # 38 are below, 2 are equal.


@pytest.mark.parametrize(("values", "margin", "most", "verdict", "met"), [
    ({A: 3.0, B: 1.0, C: 5.0, D: 4.0}, 0.0, False, "holds", 2),
    ({A: 3.0, B: 1.0, C: 4.0, D: 4.0}, 0.0, False, "fails", 1),
    ({A: 3.0, B: 1.0, C: 5.0, D: 4.0}, 2.0, False, "fails", 1),
    ({A: 3.0, B: 1.0}, 2.0, False, "holds", 1),
    ({A: 3.0, B: 1.0, C: 3.0, D: 4.0}, 0.0, True, "fails", 1),
    ({A: 3.0, C: 5.0}, 0.0, False, "not measured", 0),
])
def test_verdicts(values, margin, most, verdict, met):
    found = Claim("", "", ((A, B), (C, D)), margin, most).check(
        lambda cell: {0: values[cell]} if cell in values else {})
    assert (found.verdict, found.met, found.pairs) == (verdict, met, 2)


def test_differences_beyond_chance():
    sure = {A: {0: 10.0, 1: 10.1, 2: 10.2}, B: {0: 9.0, 1: 9.1, 2: 9.2}}
    unsure = {A: {0: 10.0, 1: 10.1, 2: 10.2}, B: {0: 5.0, 1: 12.0, 2: 9.0}}
    claim = Claim("", "", ((A, B),))
    assert claim.check(lambda cell: sure[cell]).beyond_chance == 1
    assert claim.check(lambda cell: unsure[cell]).beyond_chance == 0


def test_an_estimate_by_hand():
    found = estimate([50.0, 51.0, 52.0])
    assert found.mean == 51.0
    assert found.half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)  # t of 2 degrees of freedom, deviation 1.
    assert found.count == 3
    assert found.beyond_chance


def test_one_number_has_no_interval():
    found = estimate([50.0])
    assert (found.mean, found.half, found.count) == (50.0, None, 1)
    assert not found.beyond_chance


def test_no_numbers_have_no_estimate():
    assert estimate([]) is None
    assert paired_difference({0: 1.0}, {1: 2.0}) is None


def test_differences_are_within_seeds():
    found = paired_difference({0: 10.0, 1: 20.0, 2: 30.0}, {0: 9.0, 1: 19.1, 2: 28.9, 3: 0.0})
    assert found.mean == pytest.approx(1.0)
    assert found.count == 3
    assert found.half < 0.3  # Though the numbers themselves differ by 20.
