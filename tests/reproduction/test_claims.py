import pytest

from morel_jax.reproduction.cells import printed
from morel_jax.reproduction.claims import CLAIMS, Claim, judge, printed_values

A, B, C, D = list(printed())[:4]


def test_claims_name_cells_that_are_there():
    for claim in CLAIMS:
        assert claim.pairs
        for pair in claim.pairs:
            assert set(pair) <= printed().keys()


def test_the_papers_own_numbers():
    """As they were compared by hand: which sentences fail, and how many cells are above their baseline's."""
    verdicts = {claim.text: judge(claim, printed_values) for claim in CLAIMS}
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
    found = judge(Claim("", "", ((A, B), (C, D)), margin, most),
                  lambda cell: {0: values[cell]} if cell in values else {})
    assert (found.verdict, found.met, found.pairs) == (verdict, met, 2)


def test_chance():
    sure = {A: {0: 10.0, 1: 10.1, 2: 10.2}, B: {0: 9.0, 1: 9.1, 2: 9.2}}
    unsure = {A: {0: 10.0, 1: 10.1, 2: 10.2}, B: {0: 5.0, 1: 12.0, 2: 9.0}}
    claim = Claim("", "", ((A, B),))
    assert judge(claim, lambda cell: sure[cell]).beyond_chance == 1
    assert judge(claim, lambda cell: unsure[cell]).beyond_chance == 0
