"""The paper's tables (``tables.csv``), what its text claims of them, and how numbers over seeds are held against it."""
import csv
import dataclasses
import functools
import itertools
import math
import statistics
from importlib import resources

from scipy import stats

TABLES = tuple(range(1, 9))
TITLES = {
    1: "White-box robustness",
    2: "Robustness against transferred attacks",
    3: "With and without class attention and contrastive loss",
    4: "White-box robustness on Tiny-ImageNet",
    5: "Robustness against transferred attacks on Tiny-ImageNet",
    6: "AutoAttack and Square",
    7: "White-box robustness with LOAT",
    8: "Robustness against transferred attacks with LOAT",
}
CHECKPOINTS = ("best", "last")
_ATTACKS = ("fgsm", "pgd20", "pgd100", "cw_linf")
_CONFIDENCE = 0.95
# "About three points" is taken to be met from here on.
_ABOUT = 0.5


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table, by the paper's names.

    Attributes:
        table: its number.
        dataset: ``cifar10``, ``cifar100`` or ``tiny_imagenet``.
        architecture: ``resnet18`` or ``wide_resnet34_10``.
        threat: ``white-box``, ``transfer``, ``autoattack`` or ``square``.
        method: such as ``morel_mart``; ``morel_mart_no_attention`` is Table 3's ablation.
        attack: ``clean``, ``fgsm``, ``pgd20``, ``pgd100``, ``cw_linf``, ``avg_robust``, ``autoattack`` or ``square``.
        checkpoint: ``best`` or ``last``.
    """
    table: int
    dataset: str
    architecture: str
    threat: str
    method: str
    attack: str
    checkpoint: str

    @property
    def name(self):
        """All of it, as the command takes it: ``1/cifar10/resnet18/white-box/morel_mart/pgd20/best``."""
        return "/".join(map(str, dataclasses.astuple(self)))


@functools.cache
def printed():
    """{Cell: accuracy in percent as printed}, in the tables' order; None where the text at hand is illegible."""
    with (resources.files(__package__) / "tables.csv").open() as file:
        rows = [row | {"table": int(row["table"])} for row in csv.DictReader(file)]
    accuracies = [row.pop("accuracy_pct") for row in rows]
    return {Cell(**row): float(accuracy) if accuracy else None for row, accuracy in zip(rows, accuracies, strict=True)}


def parse(name):
    """The Cell of a name like ``1/cifar10/resnet18/white-box/morel_mart/pgd20/best``.

    Raises:
        ValueError: there is no such cell; the message lists the names that fit as far as possible.
    """
    cells = {cell.name: cell for cell in printed()}
    if name in cells:
        return cells[name]
    fitting = list(cells)
    for place, part in enumerate(name.split("/")):
        narrower = [other for other in fitting if other.split("/")[place:place + 1] == [part]]
        if not narrower:
            break
        fitting = narrower
    known = sorted({"/".join(other.split("/")[:place + 1]) for other in fitting})
    raise ValueError("a cell must be TABLE/DATASET/ARCHITECTURE/THREAT/METHOD/ATTACK/CHECKPOINT, one of the paper's; "
                     f"got {name!r}. The nearest names begin with {', '.join(known)}.")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """
    Attributes:
        mean: over seeds.
        half: half of the 95 % confidence interval of the mean (Student's t over seeds); None for a single seed.
        count: seeds.
    """
    mean: float
    half: float | None
    count: int

    @property
    def beyond_chance(self):
        """Whether the interval excludes zero; False for a single seed, which says nothing about chance."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values):
    """:class:`Estimate` of a list of numbers, one per seed; None where there are none."""
    if not values:
        return None
    count, half = len(values), None
    if count > 1:
        quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1))
        half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half, count)


def paired_difference(values, others):
    """:class:`Estimate` of values - others over the seeds that both have; None where they share none.

    Args:
        values, others: {seed: number}.
    """
    return estimate([values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())])


@dataclasses.dataclass(frozen=True)
class Finding:
    """What numbers say of a claim.

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


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the paper, as comparisons between cells.

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

    def check(self, values):
        """:class:`Finding` of numbers, by their means over seeds.

        Args:
            values: Cell -> {seed: accuracy in percent}, empty where there are none.
        """
        differences = [paired_difference(values(ours), values(other)) for ours, other in self.pairs]
        measured = [one for one in differences if one]
        means = [one.mean for one in measured]
        met = sum(mean > self.margin or (self.margin > 0 and mean == self.margin) for mean in means)
        verdict = "not measured"
        if measured:
            verdict = "holds" if (2 * met > len(measured) if self.most else met == len(measured)) else "fails"
        return Finding(verdict, met, len(measured), len(self.pairs), sum(one.beyond_chance for one in measured),
                       min(means, default=None), max(means, default=None))


def printed_values(cell):
    """The paper's own number of a cell, as :meth:`Claim.check` takes it."""
    value = printed().get(cell)
    return {} if value is None else {0: value}


def _pairs(table, datasets, architecture, method, others, attacks, checkpoints=CHECKPOINTS):
    threat = "transfer" if table in (2, 5, 8) else "white-box"
    return tuple((Cell(table, dataset, architecture, threat, method, attack, checkpoint),
                  Cell(table, dataset, architecture, threat, other, attack, checkpoint))
                 for dataset, other, attack, checkpoint in itertools.product(datasets, others, attacks, checkpoints))


def _against_baselines(threat=None):
    """Each cell of a MOREL variant in Tables 1, 2 and 4 to 8, or those of one threat, against its baseline's."""
    return tuple((cell, dataclasses.replace(cell, method=cell.method.removeprefix("morel_"))) for cell in printed()
                 if cell.method.startswith("morel_") and cell.table != 3 and threat in (None, cell.threat))


_WRN, _RN = "wide_resnet34_10", "resnet18"
_ALL = ("clean", *_ATTACKS)

CLAIMS = (
    Claim("WRN, CIFAR-10: MOREL(<-MART) has about 3 points more Avg-Robust than TRADES (last)", "4.2",
          _pairs(1, ["cifar10"], _WRN, "morel_mart", ["trades"], ["avg_robust"], ["last"]), 3 - _ABOUT),
    Claim("the same, PGD-100: more than 5 points over TRADES and MART (last)", "4.2",
          _pairs(1, ["cifar10"], _WRN, "morel_mart", ["trades", "mart"], ["pgd100"], ["last"]), 5),
    Claim("the same, CW: the highest, best and last", "4.2",
          _pairs(1, ["cifar10"], _WRN, "morel_mart", ["trades", "mart", "morel_trades"], ["cw_linf"])),
    Claim("WRN, CIFAR-100: MOREL(<-MART) is the highest, clean and under all attacks", "4.2",
          _pairs(1, ["cifar100"], _WRN, "morel_mart", ["trades", "mart", "morel_trades"], _ALL)),
    Claim("the same: about 3 points more clean accuracy than TRADES and MART", "4.2",
          _pairs(1, ["cifar100"], _WRN, "morel_mart", ["trades", "mart"], ["clean"]), 3 - _ABOUT),
    Claim("MOREL is above its baseline in most cells (Tables 1, 2, 4 to 8)", "4.2", _against_baselines(), most=True),
    Claim("ResNet18: MOREL(<-TRADES) has the highest clean accuracy, CIFAR-10 and CIFAR-100", "4.2",
          _pairs(1, ["cifar10", "cifar100"], _RN, "morel_trades", ["trades", "mart", "morel_mart"], ["clean"])),
    Claim("ResNet18, CIFAR-10: MOREL(<-TRADES) is above TRADES under every attack", "4.2",
          _pairs(1, ["cifar10"], _RN, "morel_trades", ["trades"], _ATTACKS)),
    Claim("ResNet18: MOREL(<-MART) has the highest Avg-Robust, CIFAR-10 and CIFAR-100", "4.2",
          _pairs(1, ["cifar10", "cifar100"], _RN, "morel_mart", ["trades", "mart", "morel_trades"], ["avg_robust"])),
    Claim("transfer, WRN, CIFAR-100: MOREL(<-MART) is about 4 points above MART and TRADES in Avg-Robust", "4.3",
          _pairs(2, ["cifar100"], _WRN, "morel_mart", ["trades", "mart"], ["avg_robust"]), 4 - _ABOUT),
    Claim("the same, CW: 4 to 5 points over MART", "4.3",
          _pairs(2, ["cifar100"], _WRN, "morel_mart", ["mart"], ["cw_linf"]), 4),
    Claim("transfer, WRN: MOREL(<-TRADES) is above the others under most attacks, CIFAR-10 and CIFAR-100", "4.3",
          _pairs(2, ["cifar10", "cifar100"], _WRN, "morel_trades", ["trades", "mart", "morel_mart"], _ATTACKS),
          most=True),
    Claim("transfer, ResNet18, CIFAR-10: MOREL(<-TRADES) is above TRADES and MART in Avg-Robust", "4.3",
          _pairs(2, ["cifar10"], _RN, "morel_trades", ["trades", "mart"], ["avg_robust"])),
    Claim("transfer, ResNet18: MOREL(<-MART) is above MART, CIFAR-10 and CIFAR-100", "4.3",
          _pairs(2, ["cifar10", "cifar100"], _RN, "morel_mart", ["mart"], _ATTACKS)),
    Claim("Tiny-ImageNet: MOREL(<-MART) is always above MART", "A",
          _pairs(4, ["tiny_imagenet"], _RN, "morel_mart", ["mart"], _ATTACKS)),
    Claim("Tiny-ImageNet: MOREL(<-TRADES) improves clean accuracy", "A",
          _pairs(4, ["tiny_imagenet"], _RN, "morel_trades", ["trades"], ["clean"])),
    Claim("Tiny-ImageNet, transfer: MOREL(<-MART) is above MART", "A",
          _pairs(5, ["tiny_imagenet"], _RN, "morel_mart", ["mart"], _ATTACKS)),
    Claim("Tiny-ImageNet, transfer: MOREL(<-TRADES) is above TRADES", "A",
          _pairs(5, ["tiny_imagenet"], _RN, "morel_trades", ["trades"], _ATTACKS)),
    Claim("AutoAttack: MOREL is above its baseline in most cells", "A", _against_baselines("autoattack"), most=True),
    Claim("Square: MOREL is above its baseline throughout", "A", _against_baselines("square")),
    Claim("MOREL(<-LOAT) is above LOAT in Avg-Robust, white-box and transfer", "A",
          _pairs(7, ["cifar10"], _RN, "morel_loat", ["loat"], ["avg_robust"])
          + _pairs(8, ["cifar10"], _RN, "morel_loat", ["loat"], ["avg_robust"])),
)
