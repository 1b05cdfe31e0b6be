"""What is trained for the tables and figures: each network once, in families that one compiled program trains."""
import dataclasses
import functools
from typing import NamedTuple

from morel_jax.configuration import flatten
from morel_jax.losses import GRADIENT_METHODS
from morel_jax.reproduction import cells
from morel_jax.reproduction.scales import Scale, load_config
from morel_jax.training.members import SWEEPABLE, build_members

FIGURES = (2, 3, 4)
# Paper, 4.4 and App. B: all on CIFAR-10 with ResNet18.
_FIGURES_ON = ("cifar10", "resnet18")
FIGURE_METHOD = "morel_mart"  # Of Figures 2 and 4.
SURROGATE_METHOD = "standard"
MOREL_METHODS = ("morel_trades", "morel_mart", "morel_loat")  # Figure 3 has a heat map of each.
# Without the contrastive loss nothing that the class attention computes reaches the objective.
_ABLATIONS = {"morel_mart_no_attention": ("morel_mart", (("morel.contrastive_weight", 0.0),))}
_SCALARIZATIONS = {"weighted_sum": "weighted sum", "mgda": "MGDA", "pcgrad": "PCGrad", "cagrad": "CAGrad",
                   "nash": "Nash-MTL"}
# Which protocol judges what a cell shows.
_PROTOCOL_OF = {"white-box": "paper", "transfer": "transfer", "autoattack": "autoattack", "square": "autoattack"}


@dataclasses.dataclass(frozen=True)
class Network:
    """What is trained, but for the seed.

    Attributes:
        source: stem of a file in ``configs/``.
        architecture, method: names that its configs take.
        changes: ((field, value), ...), what differs from that config.
    """
    source: str
    architecture: str
    method: str
    changes: tuple = ()


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks and seeds that share a compiled program: a population, in a folder of this name.

    Attributes:
        name: of the folder.
        networks: which differ in what may be swept only.
    """
    name: str
    networks: tuple


class Compared(NamedTuple):
    """A line of the study.

    Attributes:
        network: :class:`Network`.
        against: label of the line of the same question that it is compared with, or None.
    """
    network: Network
    against: str | None = None


class Grid:
    """All families of a scale.

    Args:
        scale: :class:`~morel_jax.reproduction.scales.Scale`.
        variant: ``paper`` or ``reference``.
        configs: the folder ``configs/``.
        data: {field of ``config.data``: value}, where the data are.
    """

    def __init__(self, scale: Scale, variant="paper", configs="configs", data=None):
        self.scale, self.variant, self.configs, self.data = scale, variant, configs, data or {}
        self.families = self._all_families()

    def config(self, network):
        """The network's config, seed 0."""
        config = load_config(self.configs, network.source, f"{network.architecture},{network.method},{self.variant}")
        for field, value in [*network.changes, *((f"data.{name}", value) for name, value in self.data.items())]:
            section, _, name = field.rpartition(".")
            (config[section] if section else config)[name] = value
        return config

    def _with(self, network, **changes):
        """The network with changes, those left out that change nothing; fields with two underscores for a dot."""
        known = flatten(self.config(network))
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        left = tuple(sorted((field, value) for field, value in changes.items() if known[field] != value))
        return dataclasses.replace(network, changes=network.changes + left)

    def network(self, cell):
        """What stands for a cell's network at this scale, or None."""
        method, changes = _ABLATIONS.get(cell.method, (cell.method, ()))
        return self._stand_in(cell.dataset, cell.architecture, method, changes)

    def _stand_in(self, dataset, architecture, method, changes=()):
        source, architecture = self.scale.sources.get(dataset), self.scale.architectures.get(architecture)
        return Network(source, architecture, method, changes) if source and architecture else None

    def surrogate(self, cell):
        """The network on which a cell's transferred attacks are crafted."""
        return Network(self.scale.sources[cell.dataset], self.scale.surrogate, SURROGATE_METHOD)

    @functools.cached_property
    def preferences(self):
        """{scalarization: {k1: Network}} of Figures 2 and 4."""
        base = self._stand_in(*_FIGURES_ON, FIGURE_METHOD)
        return {scalarization: {k1: self._with(base, morel__preference=(k1, round(1 - k1, 12)),
                                               morel__scalarization=scalarization)
                                for k1 in self.scale.preferences} for scalarization in ("conic", "weighted_sum")}

    @functools.cached_property
    def batch_sizes(self):
        """{batch size: Network} of Figure 2c; the learning rate stays, as the paper says nothing of it."""
        base = self._stand_in(*_FIGURES_ON, FIGURE_METHOD)
        return {size: self._with(base, batch_size=size) for size in self.scale.batch_sizes}

    @functools.cached_property
    def heat_maps(self):
        """{method: Network} of Figure 3."""
        return {method: self._stand_in(*_FIGURES_ON, method) for method in MOREL_METHODS}

    @functools.cached_property
    def study(self):
        """{question: {label: Compared}}: what the paper leaves open."""
        base = self._stand_in(*_FIGURES_ON, FIGURE_METHOD)
        baseline = self._stand_in(*_FIGURES_ON, FIGURE_METHOD.removeprefix("morel_"))
        pairs, sizes = {}, {}
        for method in MOREL_METHODS:
            without = method.removeprefix("morel_")
            pairs[without.upper()] = Compared(self._stand_in(*_FIGURES_ON, without))
            pairs[f"MOREL over {without.upper()}"] = Compared(self._stand_in(*_FIGURES_ON, method), without.upper())
        for size in self.scale.study_batch_sizes:
            sizes[f"MART, batch {size}"] = Compared(self._with(baseline, batch_size=size))
            sizes[f"MOREL, batch {size}"] = Compared(self._with(base, batch_size=size), f"MART, batch {size}")
        alone = {"cosine alone": self._with(base, morel__contrastive_weight=0.0),
                 "contrastive alone, alpha 0.1": self._with(base, morel__cosine_weight=0.0,
                                                            morel__contrastive_weight=0.1)}
        alphas = {f"both, alpha {alpha:g}": self._with(base, morel__contrastive_weight=alpha)
                  for alpha in self.scale.study_alphas}
        joined = {_SCALARIZATIONS[name]: self._with(base, morel__scalarization=name)
                  for name in ("weighted_sum", *GRADIENT_METHODS)}
        return {
            "baselines": pairs,
            "terms": {"MART alone": Compared(baseline)} | _all_against("MART alone", alone | alphas),
            "batch": sizes,
            "scalarization": {"conic": Compared(base)} | _all_against("conic", joined),
        }

    def _all_families(self):
        alone: dict = {}
        for cell in cells.printed():
            network = self.network(cell)
            if network:
                if cell.threat == "transfer":
                    alone[self.surrogate(cell)] = None
                alone[network] = None
        families = [Family(self._name(network), (network,)) for network in alone]
        # The study first, so that it does not have to train the networks of whole curves that it shares one with.
        study = [(question, {label: line.network for label, line in lines.items()})
                 for question, lines in self.study.items()]
        curves = [*study, *(("preferences", networks) for networks in self.preferences.values()),
                  ("batch", self.batch_sizes)]
        for curve, networks in curves:
            by_program: dict = {}
            for network in networks.values():
                if network not in alone:
                    alone[network] = None
                    by_program.setdefault((network.method, _static(network)), []).append(network)
            for (_, static), members in by_program.items():
                # Networks that a sweep tells apart share a folder, which is named for the curve they lie on.
                name = self._name(members[0] if len(members) == 1 else
                                  dataclasses.replace(members[0], changes=static)) + f"-{curve}"
                families.append(Family(name, tuple(members)))
        return tuple(families)

    def _name(self, network):
        changes = [f"{field.rpartition('.')[2]}={value}" for field, value in network.changes]
        return "-".join([network.source, network.architecture, network.method, *changes])

    def family(self, network):
        """The family that trains a network."""
        return next(family for family in self.families if network in family.networks)

    def base(self, family):
        """The config that a family's members have but for what may be swept."""
        first = family.networks[0]
        return self.config(dataclasses.replace(first, changes=_static(first)))

    def members(self, family):
        """{(Network, seed): Member} of a family, whose configs and folder names are those of its runs."""
        keys = [(network, seed) for network in family.networks for seed in self._seeds(network)]
        settings = [{**{field: value for field, value in network.changes if field in SWEEPABLE}, "seed": seed}
                    for network, seed in keys]
        return dict(zip(keys, build_members(self.base(family), settings), strict=True))

    def _seeds(self, network):
        # The paper has one surrogate a data set.
        return self.scale.seeds[:1] if network.method == SURROGATE_METHOD else self.scale.seeds


def _all_against(label, networks):
    return {name: Compared(network, label) for name, network in networks.items()}


def _static(network):
    """The changes that make another program."""
    return tuple(change for change in network.changes if change[0] not in SWEEPABLE)


def protocol(cell):
    """The protocol that judges a cell, and the attack's name in its summary: ``clean``, ``average``, or a column."""
    name = {"clean": "clean", "avg_robust": "average", "cw_linf": "cw"}.get(cell.attack, cell.attack)
    if cell.threat == "transfer":
        name = "transfer_average" if name == "average" else f"transfer-{name}"
    return _PROTOCOL_OF[cell.threat], name
