"""The paper's tables and the claims of its text, from two files, and how numbers compare with both.

``tables.csv`` has one line per cell. ``claims.csv`` has one line per claim: its ``margin`` in points, whether it is
``of`` all or most pairs, the cells claimed to be higher, and the ``others``, claimed to be lower.
"""
import csv
import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

from scipy import stats

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
TABLES = tuple(TITLES)
CHECKPOINTS = ("best", "last")
_CONFIDENCE = 0.95


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
    def name(self) -> str:
        """As the command takes it: ``1/cifar10/resnet18/white-box/morel_mart/pgd20/best``."""
        return "/".join(map(str, dataclasses.astuple(self)))


def _rows(name: str) -> list[dict[str, str]]:
    with (resources.files(__package__) / name).open() as file:
        return list(csv.DictReader(file))


@functools.cache
def printed() -> dict[Cell, float | None]:
    """Accuracies in percent as printed, in the tables' order; None where the text at hand is illegible."""
    found = {}
    for row in _rows("tables.csv"):
        accuracy = row.pop("accuracy_pct")
        found[Cell(int(row.pop("table")), **row)] = float(accuracy) if accuracy else None
    return found


def parse(name: str) -> Cell:
    """The Cell of a name like ``1/cifar10/resnet18/white-box/morel_mart/pgd20/best``.

    Raises:
        ValueError: there is no such cell; the message lists the closest names.
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
    def beyond_chance(self) -> bool:
        """Whether the interval excludes zero; False for a single seed, which says nothing about chance."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate | None:
    """The estimate from numbers, one per seed; None where there are none."""
    if not values:
        return None
    count, half = len(values), None
    if count > 1:
        quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1))
        half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half, count)


def paired_difference(values: Mapping[int, float], others: Mapping[int, float]) -> Estimate | None:
    """The estimate of values - others, by seed, over the seeds that both have; None where they share none."""
    return estimate([values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())])


@dataclasses.dataclass(frozen=True)
class Finding:
    """How a claim compares with numbers.

    Attributes:
        verdict: ``holds``, ``fails``, or ``not measured`` where no pair has numbers.
        met, measured, pairs: numbers of pairs that are as claimed, that have numbers, and in all.
        beyond_chance: how many of the measured differences are larger than their 95 % interval over seeds.
        smallest, largest: differences in points; None where nothing is measured.
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
        text: the claim.
        place: section of the paper.
        pairs: ((Cell, Cell), ...): the first is claimed to be above the second.
        margin: by at least this many points; "about 3 points" counts as met from 2.5 on.
        most: whether it is claimed of most pairs; otherwise of all.
    """
    text: str
    place: str
    pairs: tuple
    margin: float = 0.0
    most: bool = False

    def check(self, values: Callable[[Cell], Mapping[int, float]]) -> Finding:
        """Compares with numbers, by their means over seeds: ``values(cell)`` is {seed: accuracy in percent}."""
        differences = [paired_difference(values(ours), values(other)) for ours, other in self.pairs]
        measured = [one for one in differences if one]
        means = [one.mean for one in measured]
        met = sum(mean > self.margin or (self.margin > 0 and mean == self.margin) for mean in means)
        verdict = "not measured"
        if measured:
            verdict = "holds" if (2 * met > len(measured) if self.most else met == len(measured)) else "fails"
        return Finding(verdict, met, len(measured), len(self.pairs), sum(one.beyond_chance for one in measured),
                       min(means, default=None), max(means, default=None))


def printed_values(cell: Cell) -> dict[int, float]:
    """The paper's own number of a cell, as :meth:`Claim.check` takes it."""
    value = printed().get(cell)
    return {} if value is None else {0: value}


def _read_claim(row: Mapping[str, str]) -> Claim:
    fields = [field.name for field in dataclasses.fields(Cell) if field.name != "threat"]
    cells = [cell for cell in printed()  # An empty field of the row fits every cell.
             if all(not row[field] or str(getattr(cell, field)) in row[field].split() for field in fields)]
    pairs = [(cell, dataclasses.replace(cell, method=other)) for cell in cells
             for other in row["others"].replace("baseline", cell.method.removeprefix("morel_")).split()]
    return Claim(row["text"], row["place"], tuple(pairs), float(row["margin"]), row["of"] == "most")


CLAIMS = tuple(map(_read_claim, _rows("claims.csv")))
