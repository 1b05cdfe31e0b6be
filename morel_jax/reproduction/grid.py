"""What stands for the paper's networks at each scale, and which of them train together in one compiled program."""
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from morel_jax.configuration import SHIPPED_CONFIGS, flatten, load_file
from morel_jax.reproduction.paper import Cell, printed
from morel_jax.training.members import SWEEPABLE, Member, build_members

FIGURES = (2, 3, 4)
SCALES = ("paper", "small", "smoke")
# Attacks that are evaluated together, in one folder per checkpoint: names as `evaluate` takes them.
PROTOCOLS = {"paper": ("paper",), "transfer": ("transfer",), "autoattack": ("autoattack", "square")}
FIGURE_METHOD = "morel_mart"  # Of Figures 2 and 4.
SURROGATE_METHOD = "standard"
MOREL_METHODS = ("morel_trades", "morel_mart", "morel_loat")  # Figure 3 has a heat map of each.
# Without the contrastive loss, nothing that the class attention computes reaches the objective.
_ABLATIONS = {"morel_mart_no_attention": ("morel_mart", (("morel.contrastive_weight", 0.0),))}
_SCALARIZATIONS = {"weighted_sum": "weighted sum", "smooth_tchebycheff": "smooth Tchebycheff", "famo": "FAMO",
                   "mgda": "MGDA", "mgda_normalized": "MGDA, normalised", "pcgrad": "PCGrad", "cagrad": "CAGrad",
                   "nash": "Nash-MTL", "upgrad": "UPGrad", "imtl_g": "IMTL-G"}
# Also of three objectives: the cosine, the contrastive and the classification loss. Of two UPGrad is half of PCGrad,
# and normalised MGDA has the direction of Nash-MTL and of IMTL-G.
_OF_THREE = ("famo", "mgda_normalized", "nash", "upgrad", "imtl_g")
_DATASETS = ("cifar10", "cifar100", "tiny_imagenet")
_ARCHITECTURES = ("resnet18", "wide_resnet34_10")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large a reproduction is.

    Attributes:
        name: one of ``SCALES``.
        title: a description for people.
        sources: {the paper's data set: stem of the file in ``configs/`` that stands for it}; the cells of a data set
            that is missing stay empty.
        architectures: the same for networks.
        surrogate: network that transferred attacks are crafted on.
        examples: {protocol: test images, 0 for all}.
        seeds: every network is trained once with each.
        preferences: k1 of Figures 2 and 4; k2 is 1 - k1.
        batch_sizes: of Figure 2c.
        study_alphas: weights of the contrastive loss in the study.
        study_batch_sizes: at which the study compares MOREL and its baseline.
        heat_map_images: of Figure 3.
    """
    name: str
    title: str
    sources: dict
    architectures: dict
    surrogate: str
    examples: dict
    seeds: tuple = (0, 1, 2)
    preferences: tuple = tuple(round(0.1 * number, 1) for number in range(1, 10))
    batch_sizes: tuple = (8, 32, 128, 512)
    study_alphas: tuple = (1e-5, 1e-3, 1e-2, 0.1)
    study_batch_sizes: tuple = (8, 32, 128)
    heat_map_images: int = 48  # Paper, App. A.


def scale(name: str) -> Scale:
    """The Scale of a name; ``small`` is what the machine at hand can do.

    Raises:
        ValueError: no such name.
    """
    if name == "paper":
        return Scale(name, "the paper's data sets and networks", {one: one for one in _DATASETS},
                     {one: one for one in _ARCHITECTURES}, "resnet50", dict.fromkeys(PROTOCOLS, 0))
    if name == "small" and jax.default_backend() == "cpu":
        return Scale(name, "embedded Fashion-MNIST, a small ResNet, two CPU cores", {"cifar10": "small"},
                     {"resnet18": "resnet8_half"}, "resnet8", {"paper": 500, "transfer": 500, "autoattack": 250},
                     study_batch_sizes=(8, 50, 128))
    if name == "small":
        return Scale(name, "full Fashion-MNIST, ResNet18, one accelerator", {"cifar10": "fashion_mnist"},
                     {"resnet18": "resnet18"}, "resnet50", {"paper": 0, "transfer": 0, "autoattack": 1000})
    if name == "smoke":
        return Scale(name, "a few steps on the embedded images, to see that everything works; its numbers mean nothing",
                     dict.fromkeys(_DATASETS, "smoke"), dict.fromkeys(_ARCHITECTURES, "convnet_small"), "convnet_small",
                     {"paper": 40, "transfer": 40, "autoattack": 8}, seeds=(0, 1), preferences=(0.1, 0.5, 0.9),
                     batch_sizes=(8, 32), study_batch_sizes=(8, 32), heat_map_images=16)
    raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {name!r}.")


@dataclasses.dataclass(frozen=True)
class Network:
    """What is trained, apart from the seed.

    Attributes:
        source: stem of a file in ``configs/``.
        architecture, method: names that this file takes.
        changes: ((field, value), ...) to its config.
    """
    source: str
    architecture: str
    method: str
    changes: tuple = ()

    @property
    def name(self) -> str:
        changes = [f"{field.rpartition('.')[2]}={value}" for field, value in self.changes]
        return "-".join([self.source, self.architecture, self.method, *changes])

    def unswept(self) -> "Network":
        """The network without the changes that a sweep may make; each has one compiled program."""
        return dataclasses.replace(self, changes=tuple(one for one in self.changes if one[0] not in SWEEPABLE))


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks and seeds that share a compiled program: a population, in a folder of this name.

    Attributes:
        name: of the folder.
        networks: they differ only in what may be swept.
    """
    name: str
    networks: tuple


class Compared(NamedTuple):
    """A line of the study: a network, and the label of the line of the same question that it is compared with."""
    network: Network
    against: str | None = None


class Grid:
    """All families of a scale.

    Args:
        variant: ``paper`` or ``reference``.
        configs: a folder with the files of the scale's configs.
        data: {field of ``config.data``: value}, where the data are.
    """

    def __init__(self, scale: Scale, variant: str = "paper", configs: str | os.PathLike = SHIPPED_CONFIGS,
                 data: Mapping[str, str] | None = None) -> None:
        self.scale, self.variant, self.configs, self.data = scale, variant, configs, data or {}
        self.families = self._all_families()

    def spec(self, network: Network) -> str:
        """What its file in ``configs/`` takes: "architecture,method,variant"."""
        return f"{network.architecture},{network.method},{self.variant}"

    def config(self, network: Network) -> ConfigDict:
        """The network's config, seed 0.

        Raises:
            FileNotFoundError: ``configs`` has no such file.
        """
        path = Path(self.configs) / f"{network.source}.py"
        if not path.exists():
            raise FileNotFoundError(f"configs must be a folder with {path.name} in it, such as the one beside the "
                                    f"package; got {self.configs}.")
        config = load_file(path, self.spec(network))
        for field, value in [*network.changes, *((f"data.{name}", value) for name, value in self.data.items())]:
            section, _, name = field.rpartition(".")
            (config[section] if section else config)[name] = value
        return config

    def network(self, cell: Cell) -> Network | None:
        """What stands for a cell's network at this scale, or None."""
        method, changes = _ABLATIONS.get(cell.method, (cell.method, ()))
        source, architecture = self.scale.sources.get(cell.dataset), self.scale.architectures.get(cell.architecture)
        return Network(source, architecture, method, changes) if source and architecture else None

    def figures_network(self, method: str = FIGURE_METHOD, **changes: Any) -> Network:
        """A network of the figures and the study, which are all on CIFAR-10 with ResNet18 (paper, 4.4 and App. B).

        Changes are {field, with two underscores for a dot: value}; those that change nothing are dropped.
        """
        network = Network(self.scale.sources["cifar10"], self.scale.architectures["resnet18"], method)
        known = flatten(self.config(network))
        by_field = sorted((name.replace("__", "."), value) for name, value in changes.items())
        return dataclasses.replace(network, changes=tuple(one for one in by_field if known[one[0]] != one[1]))

    def surrogate(self, network: Network) -> Network:
        """The network on which a network's transferred attacks are crafted."""
        return Network(network.source, self.scale.surrogate, SURROGATE_METHOD)

    @functools.cached_property
    def preferences(self) -> dict[str, dict[float, Network]]:
        """{scalarization: {k1: Network}} of Figures 2 and 4."""
        return {scalarization: {k1: self.figures_network(morel__preference=(k1, round(1 - k1, 12)),
                                                         morel__scalarization=scalarization)
                                for k1 in self.scale.preferences} for scalarization in ("conic", "weighted_sum")}

    @functools.cached_property
    def batch_sizes(self) -> dict[int, Network]:
        """{batch size: Network} of Figure 2c; the learning rate stays, as the paper does not mention it."""
        return {size: self.figures_network(batch_size=size) for size in self.scale.batch_sizes}

    @functools.cached_property
    def heat_maps(self) -> dict[str, Network]:
        """{method: Network} of Figure 3."""
        return {method: self.figures_network(method) for method in MOREL_METHODS}

    @functools.cached_property
    def study(self) -> dict[str, dict[str, Compared]]:
        """{question: {label: Compared}}: what the paper leaves open."""
        made, baseline = self.figures_network, FIGURE_METHOD.removeprefix("morel_")
        pairs, sizes = {}, {}
        for method in MOREL_METHODS:
            without = method.removeprefix("morel_")
            pairs[without.upper()] = Compared(made(without))
            pairs[f"MOREL over {without.upper()}"] = Compared(made(method), without.upper())
        for size in self.scale.study_batch_sizes:
            sizes[f"MART, batch {size}"] = Compared(made(baseline, batch_size=size))
            sizes[f"MOREL, batch {size}"] = Compared(made(batch_size=size), f"MART, batch {size}")
        terms = {"cosine alone": made(morel__contrastive_weight=0.0),
                 "contrastive alone, alpha 0.1": made(morel__cosine_weight=0.0, morel__contrastive_weight=0.1),
                 **{f"both, alpha {alpha:g}": made(morel__contrastive_weight=alpha)
                    for alpha in self.scale.study_alphas}}
        joined = {label: made(morel__scalarization=name) for name, label in _SCALARIZATIONS.items()}
        joined |= {f"{_SCALARIZATIONS[name]}, three": made(morel__scalarization=name, morel__objectives="three")
                   for name in _OF_THREE}
        return {
            "baselines": pairs,
            "terms": {"MART alone": Compared(made(baseline))} | _all_against("MART alone", terms),
            "batch": sizes,
            "scalarization": {"conic": Compared(made())} | _all_against("conic", joined),
        }

    def _all_families(self) -> tuple[Family, ...]:
        alone: dict = {}
        for cell in printed():
            network = self.network(cell)
            if network:
                if cell.threat == "transfer":
                    alone[self.surrogate(network)] = None
                alone[network] = None
        families = [Family(network.name, (network,)) for network in alone]
        # The study first: otherwise a network that it shares with a curve would make it train the whole curve.
        curves = [*((question, [line.network for line in lines.values()]) for question, lines in self.study.items()),
                  *(("preferences", networks.values()) for networks in self.preferences.values()),
                  ("batch", self.batch_sizes.values())]
        for curve, networks in curves:
            by_program: dict = {}
            for network in networks:
                if network not in alone:
                    alone[network] = None
                    by_program.setdefault(network.unswept(), []).append(network)
            # Networks that differ by a sweep share a folder, named after the curve that they lie on.
            families += [Family(f"{(members[0] if len(members) == 1 else program).name}-{curve}", tuple(members))
                         for program, members in by_program.items()]
        return tuple(families)

    def family(self, network: Network) -> Family:
        """The family that trains a network."""
        return next(family for family in self.families if network in family.networks)

    def base(self, family: Family) -> ConfigDict:
        """The config that a family's members share, without what may be swept."""
        return self.config(family.networks[0].unswept())

    def members(self, family: Family) -> dict[tuple[Network, int], Member]:
        """{(Network, seed): Member} of a family, with the configs and folder names of its runs."""
        # The paper has one surrogate per data set.
        keys = [(network, seed) for network in family.networks
                for seed in self.scale.seeds[:1 if network.method == SURROGATE_METHOD else None]]
        settings = [{field: value for field, value in network.changes if field in SWEEPABLE} | {"seed": seed}
                    for network, seed in keys]
        return dict(zip(keys, build_members(self.base(family), settings), strict=True))


def _all_against(label: str, networks: Mapping[str, Network]) -> dict[str, Compared]:
    return {name: Compared(network, label) for name, network in networks.items()}


def protocol(cell: Cell) -> tuple[str, str]:
    """The protocol that evaluates a cell, and the attack's name in its summary: ``clean``, ``average``, or a column."""
    name = {"avg_robust": "average", "cw_linf": "cw"}.get(cell.attack, cell.attack)
    if cell.threat == "transfer":
        return "transfer", "transfer_average" if name == "average" else f"transfer-{name}"
    return "paper" if cell.threat == "white-box" else "autoattack", name
