"""What the paper's text says of its tables, as comparisons between cells that any numbers can be held against."""
import dataclasses
import itertools

from morel_jax.reproduction.cells import Cell, printed
from morel_jax.reproduction.estimate import paired_difference

_BOTH = ("best", "last")
_ATTACKS = ("fgsm", "pgd20", "pgd100", "cw_linf")
# "About three points" is taken to be met from here on.
_ABOUT = 0.5


@dataclasses.dataclass(frozen=True)
class Claim:
    """
    Attributes:
        text: what is said.
        place: section of the paper.
        pairs: ((Cell, Cell), ...): the first is said to be above the second.
        margin: by at least so many points.
        most: whether it is said of most pairs; else of all.
    """
    text: str
    place: str
    pairs: tuple
    margin: float = 0.0
    most: bool = False


def _pairs(table, datasets, architecture, threat, method, others, attacks, checkpoints=_BOTH):
    return tuple((Cell(table, dataset, architecture, threat, method, attack, checkpoint),
                  Cell(table, dataset, architecture, threat, other, attack, checkpoint))
                 for dataset, other, attack, checkpoint in itertools.product(datasets, others, attacks, checkpoints))


def _against_baselines():
    """Each cell of a MOREL variant in Tables 1, 2 and 4 to 8, against its baseline's."""
    return tuple((cell, dataclasses.replace(cell, method=cell.method.removeprefix("morel_")))
                 for cell in printed() if cell.method.startswith("morel_") and cell.table != 3)


_WRN, _RN = "wide_resnet34_10", "resnet18"
_ALL = ("clean", *_ATTACKS)

CLAIMS = (
    Claim("WRN, CIFAR-10: MOREL(<-MART) has about 3 points more Avg-Robust than TRADES (last)", "4.2",
          _pairs(1, ["cifar10"], _WRN, "white-box", "morel_mart", ["trades"], ["avg_robust"], ["last"]), 3 - _ABOUT),
    Claim("the same, PGD-100: more than 5 points over TRADES and MART (last)", "4.2",
          _pairs(1, ["cifar10"], _WRN, "white-box", "morel_mart", ["trades", "mart"], ["pgd100"], ["last"]), 5),
    Claim("the same, CW: the highest, best and last", "4.2",
          _pairs(1, ["cifar10"], _WRN, "white-box", "morel_mart", ["trades", "mart", "morel_trades"], ["cw_linf"])),
    Claim("WRN, CIFAR-100: MOREL(<-MART) is the highest, clean and under all attacks", "4.2",
          _pairs(1, ["cifar100"], _WRN, "white-box", "morel_mart", ["trades", "mart", "morel_trades"], _ALL)),
    Claim("the same: about 3 points more clean accuracy than TRADES and MART", "4.2",
          _pairs(1, ["cifar100"], _WRN, "white-box", "morel_mart", ["trades", "mart"], ["clean"]), 3 - _ABOUT),
    Claim("MOREL is above its baseline in most cells (Tables 1, 2, 4 to 8)", "4.2", _against_baselines(), most=True),
    Claim("ResNet18: MOREL(<-TRADES) has the highest clean accuracy, CIFAR-10 and CIFAR-100", "4.2",
          _pairs(1, ["cifar10", "cifar100"], _RN, "white-box", "morel_trades", ["trades", "mart", "morel_mart"],
                 ["clean"])),
    Claim("ResNet18, CIFAR-10: MOREL(<-TRADES) is above TRADES under every attack", "4.2",
          _pairs(1, ["cifar10"], _RN, "white-box", "morel_trades", ["trades"], _ATTACKS)),
    Claim("ResNet18: MOREL(<-MART) has the highest Avg-Robust, CIFAR-10 and CIFAR-100", "4.2",
          _pairs(1, ["cifar10", "cifar100"], _RN, "white-box", "morel_mart", ["trades", "mart", "morel_trades"],
                 ["avg_robust"])),
    Claim("transfer, WRN, CIFAR-100: MOREL(<-MART) is about 4 points above MART and TRADES in Avg-Robust", "4.3",
          _pairs(2, ["cifar100"], _WRN, "transfer", "morel_mart", ["trades", "mart"], ["avg_robust"]), 4 - _ABOUT),
    Claim("the same, CW: 4 to 5 points over MART", "4.3",
          _pairs(2, ["cifar100"], _WRN, "transfer", "morel_mart", ["mart"], ["cw_linf"]), 4),
    Claim("transfer, WRN: MOREL(<-TRADES) is above the others under most attacks, CIFAR-10 and CIFAR-100", "4.3",
          _pairs(2, ["cifar10", "cifar100"], _WRN, "transfer", "morel_trades", ["trades", "mart", "morel_mart"],
                 _ATTACKS), most=True),
    Claim("transfer, ResNet18, CIFAR-10: MOREL(<-TRADES) is above TRADES and MART in Avg-Robust", "4.3",
          _pairs(2, ["cifar10"], _RN, "transfer", "morel_trades", ["trades", "mart"], ["avg_robust"])),
    Claim("transfer, ResNet18: MOREL(<-MART) is above MART, CIFAR-10 and CIFAR-100", "4.3",
          _pairs(2, ["cifar10", "cifar100"], _RN, "transfer", "morel_mart", ["mart"], _ATTACKS)),
    Claim("Tiny-ImageNet: MOREL(<-MART) is always above MART", "A",
          _pairs(4, ["tiny_imagenet"], _RN, "white-box", "morel_mart", ["mart"], _ATTACKS)),
    Claim("Tiny-ImageNet: MOREL(<-TRADES) improves clean accuracy", "A",
          _pairs(4, ["tiny_imagenet"], _RN, "white-box", "morel_trades", ["trades"], ["clean"])),
    Claim("Tiny-ImageNet, transfer: MOREL(<-MART) is above MART", "A",
          _pairs(5, ["tiny_imagenet"], _RN, "transfer", "morel_mart", ["mart"], _ATTACKS)),
    Claim("Tiny-ImageNet, transfer: MOREL(<-TRADES) is above TRADES", "A",
          _pairs(5, ["tiny_imagenet"], _RN, "transfer", "morel_trades", ["trades"], _ATTACKS)),
    *(Claim(f"{attack}: MOREL is above its baseline {text}", "A", tuple(
        pair for pair in _against_baselines() if pair[0].table == 6 and pair[0].threat == threat), most=most)
      for attack, threat, text, most in (("AutoAttack", "autoattack", "in most cells", True),
                                         ("Square", "square", "throughout", False))),
    Claim("MOREL(<-LOAT) is above LOAT in Avg-Robust, white-box and transfer", "A",
          _pairs(7, ["cifar10"], _RN, "white-box", "morel_loat", ["loat"], ["avg_robust"])
          + _pairs(8, ["cifar10"], _RN, "transfer", "morel_loat", ["loat"], ["avg_robust"])),
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        verdict: ``holds``, ``fails``, or ``not measured`` where no pair has numbers.
        met, measured, pairs: how many pairs are as claimed, have numbers, and there are.
        beyond_chance: how many of the measured differences are larger than their 95 % interval over seeds.
        smallest, largest: differences, points; None where nothing is measured.
    """
    verdict: str
    met: int
    measured: int
    pairs: int
    beyond_chance: int
    smallest: float | None
    largest: float | None


def judge(claim, values):
    """Holds a claim against numbers.

    Args:
        claim: :class:`Claim`.
        values: Cell -> {seed: accuracy in percent}, empty where there are none.

    Returns:
        :class:`Verdict`; means over seeds decide.
    """
    differences = [paired_difference(values(ours), values(other)) for ours, other in claim.pairs]
    measured = [one for one in differences if one]
    met = sum(one.mean > claim.margin or (claim.margin > 0 and one.mean == claim.margin) for one in measured)
    if not measured:
        verdict = "not measured"
    else:
        verdict = "holds" if (2 * met > len(measured) if claim.most else met == len(measured)) else "fails"
    means = [one.mean for one in measured]
    return Verdict(verdict, met, len(measured), len(claim.pairs), sum(one.beyond_chance for one in measured),
                   min(means, default=None), max(means, default=None))


def printed_values(cell):
    """The paper's own number of a cell, as :func:`judge` takes it."""
    value = printed().get(cell)
    return {} if value is None else {0: value}
