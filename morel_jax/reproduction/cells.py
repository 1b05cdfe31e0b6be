"""Every cell of the paper's tables, with the number printed there (``tables.csv``)."""
import csv
import dataclasses
import functools
from importlib import resources

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
    """{Cell: accuracy in percent as printed}, in the tables' order; None for a row that the text at hand lost."""
    fields = [field.name for field in dataclasses.fields(Cell)]
    with (resources.files(__package__) / "tables.csv").open() as file:
        return {Cell(int(row["table"]), *(row[field] for field in fields[1:])):
                float(row["accuracy_pct"]) if row["accuracy_pct"] else None for row in csv.DictReader(file)}


def parse(name):
    """The Cell of a name like ``1/cifar10/resnet18/white-box/morel_mart/pgd20/best``.

    Raises:
        ValueError: there is no such cell; the message shows what is there with the parts that fit.
    """
    cells = {cell.name: cell for cell in printed()}
    if name in cells:
        return cells[name]
    parts, fitting = name.split("/"), list(cells)
    for place, part in enumerate(parts):
        narrower = [other for other in fitting if other.split("/")[place:place + 1] == [part]]
        if not narrower:
            break
        fitting = narrower
    known = sorted({"/".join(other.split("/")[:place + 1]) for other in fitting})
    raise ValueError("a cell must be TABLE/DATASET/ARCHITECTURE/THREAT/METHOD/ATTACK/CHECKPOINT, one of the paper's; "
                     f"got {name!r}, where {', '.join(known)} would go on.")
