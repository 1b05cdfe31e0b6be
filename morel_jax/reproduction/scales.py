"""How large a reproduction is: which data, networks, seeds and images stand for the paper's."""
import dataclasses
from pathlib import Path
from typing import Any

import jax

from morel_jax.configuration import load_file

# Judged together, in one folder a checkpoint: names as `evaluate` takes them.
PROTOCOLS = {"paper": ("paper",), "transfer": ("transfer",), "autoattack": ("autoattack", "square")}


@dataclasses.dataclass(frozen=True)
class Scale:
    """
    Attributes:
        name: ``paper``, ``small`` or ``smoke``.
        title: what it is, for people.
        sources: {the paper's data set: stem of the file in ``configs/`` that stands for it}; one that is not there
            has no stand-in, and its cells stay empty.
        architectures: the same for networks.
        surrogate: network of the transferred attacks.
        seeds: runs of every network.
        examples: {protocol: test images, 0 for all}.
        preferences: k1 of Figures 2 and 4; k2 is 1 - k1.
        batch_sizes: of Figure 2c.
        study_alphas: weights of the contrastive loss that the study tries.
        study_batch_sizes: that it compares, of MOREL and its baseline.
        heat_map_images: of Figure 3.
    """
    name: str
    title: str
    sources: dict
    architectures: dict
    surrogate: str
    seeds: tuple
    examples: dict
    preferences: tuple
    batch_sizes: tuple
    study_alphas: tuple = (1e-5, 1e-3, 1e-2, 0.1)
    study_batch_sizes: tuple = (8, 32, 128)
    heat_map_images: int = 48  # Paper, App. A.


_K1 = tuple(round(0.1 * number, 1) for number in range(1, 10))
_ON_CPU: dict[str, Any] = dict(
    title="embedded Fashion-MNIST, a small ResNet, two CPU cores", sources={"cifar10": "small"},
    architectures={"resnet18": "resnet8_half"}, surrogate="resnet8",
    examples={"paper": 500, "transfer": 500, "autoattack": 250}, batch_sizes=(8, 32, 128, 512),
    study_batch_sizes=(8, 50, 128))
_ON_ACCELERATOR: dict[str, Any] = dict(
    title="full Fashion-MNIST, ResNet18, one accelerator", sources={"cifar10": "fashion_mnist"},
    architectures={"resnet18": "resnet18"}, surrogate="resnet50",
    examples={"paper": 0, "transfer": 0, "autoattack": 1000}, batch_sizes=(8, 32, 128, 512))
NAMES = ("paper", "small", "smoke")


def scale(name):
    """The Scale of a name; ``small`` is what the machine at hand can do.

    Raises:
        ValueError: no such name.
    """
    if name == "paper":
        return Scale(
            name, "the paper's data sets and networks",
            sources={one: one for one in ("cifar10", "cifar100", "tiny_imagenet")},
            architectures={one: one for one in ("resnet18", "wide_resnet34_10")}, surrogate="resnet50", seeds=(0, 1, 2),
            examples={protocol: 0 for protocol in PROTOCOLS}, preferences=_K1, batch_sizes=(8, 32, 128, 512))
    if name == "small":
        return Scale(name, seeds=(0, 1, 2), preferences=_K1,
                     **(_ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR))
    if name == "smoke":
        return Scale(
            name, "a few steps on the embedded images, to see that everything works; its numbers mean nothing",
            sources={one: "smoke" for one in ("cifar10", "cifar100", "tiny_imagenet")},
            architectures={one: "convnet_small" for one in ("resnet18", "wide_resnet34_10")}, surrogate="convnet_small",
            seeds=(0, 1), examples={"paper": 40, "transfer": 40, "autoattack": 8}, preferences=(0.1, 0.5, 0.9),
            batch_sizes=(8, 32), study_batch_sizes=(8, 32), heat_map_images=16)
    raise ValueError(f"scale must be one of {', '.join(NAMES)}; got {name!r}.")


def load_config(folder, source, spec):
    """The config that ``<folder>/<source>.py`` gives for "architecture,method,variant".

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(folder) / f"{source}.py"
    if not path.exists():
        raise FileNotFoundError(f"configs must be a folder with {source}.py in it, such as the one beside the package; "
                                f"got {folder}.")
    return load_file(path, spec)
