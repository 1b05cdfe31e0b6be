"""A run as an entry of RobustBench: weights, code and numbers, in the folders of its repository.

RobustBench's ``load_model`` finds the weights under ``models/``, its leaderboards the numbers under ``model_info/``.
The code builds the network from RobustBench's own classes.
"""
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from morel_jax.models.preact_resnet import PreActResNet, SiluShortcutBlock
from morel_jax.models.resnet import ResNet
from morel_jax.models.wide_resnet import SiluWideResNet, WideResNet

_NORMS = {"linf": "Linf", "l2": "L2"}
_DATASETS = ("cifar10", "cifar100")
_WIDTHS = (64, 128, 256, 512)  # Of RobustBench's ResNets.
# What a run does not know of itself: {field: value where it is not given}. Without `reported` it is AutoAttack's.
ABOUT = {"id": "", "link": "", "name": "", "authors": "", "venue": "", "reported": ""}


class Twin(NamedTuple):
    """RobustBench's class of a network.

    Attributes:
        module: in ``robustbench.model_zoo.architectures``.
        imports: what is imported from it; the first is the class.
        arguments: the call's, as code.
        architecture: as the leaderboards print it.
        normalises: whether mean and std are among the arguments, and not buffers beside the weights.
    """
    module: str
    imports: tuple[str, ...]
    arguments: str
    architecture: str
    normalises: bool = False


def twin(model: Any) -> Twin:
    """RobustBench's class of ``model``, a Flax module.

    Raises:
        ValueError: it has none.
    """
    if isinstance(model, WideResNet):
        architecture = f"WideResNet-{model.depth}-{model.width}"
        sizes = f"num_classes={model.num_classes}, depth={model.depth}"
        if isinstance(model, SiluWideResNet):
            return Twin("dm_wide_resnet", ("DMWideResNet",), f"{sizes}, width={model.width}, {_deepmind(model)}",
                        architecture, normalises=True)
        return Twin("wide_resnet", ("WideResNet",), f"{sizes}, widen_factor={model.width}", architecture)
    if isinstance(model, ResNet | PreActResNet) and model.widths == _WIDTHS and getattr(model, "stem_stride", 1) == 1:
        bottleneck = model.block.expansion == 4
        depth = (3 if bottleneck else 2) * sum(model.stage_sizes) + 2
        blocks = f"{list(model.stage_sizes)}, num_classes={model.num_classes}"
        if isinstance(model, ResNet):
            block = "Bottleneck" if bottleneck else "BasicBlock"
            return Twin("resnet", ("ResNet", block), f"{block}, {blocks}", f"ResNet-{depth}")
        if issubclass(model.block, SiluShortcutBlock) and depth in (18, 34):
            return Twin("dm_wide_resnet", ("DMPreActResNet",),
                        f"num_classes={model.num_classes}, depth={depth}, {_deepmind(model)}", f"PreActResNet-{depth}",
                        normalises=True)
        if not bottleneck:
            return Twin("resnet", ("PreActResNet", "PreActBlockV2"),
                        f"PreActBlockV2, {blocks}, bn_before_fc={model.final_norm}", f"PreActResNet-{depth}")
    raise ValueError("model.name must be resnet18/34/50/101/152, or preact_resnet18/34 or wide_resnet<depth>_<width>, "
                     "with _silu or without, for RobustBench, which has a class for no other.")


def _deepmind(model: Any) -> str:
    mean, std = (model.mean, model.std) if model.mean else ((0.0,) * 3, (1.0,) * 3)
    return f"activation_fn=torch.nn.SiLU,\n                         mean={mean}, std={std}"


class Entry(NamedTuple):
    """Attributes:
        texts: {path in the entry's folder: content}.
        weights: path of the state dict.
        missing: fields of :data:`ABOUT` that the leaderboard needs and that were not given.
    """
    texts: dict[str, str]
    weights: str
    missing: tuple[str, ...]


def entry(model: Any, config: Mapping[str, Any], data: Mapping[str, Any], summary: Mapping[str, Any] | None,
          about: Sequence[str] = ()) -> Entry:
    """The files of a leaderboard's entry but the weights, which :func:`morel_jax.interop.torch.save_checkpoint` writes.

    Args:
        model: the classifier, a Flax module.
        config: the run's, for ``method``, ``model.name`` and ``data.extra``.
        data: ``name`` of its data set and ``test_images``, their number.
        summary: content of ``summary.json`` of an evaluation of this network; or None.
        about: ``FIELD=VALUE`` for fields of :data:`ABOUT`.

    Raises:
        ValueError: the data set has no leaderboard, the network no class in RobustBench, AutoAttack did not judge the
            network on all test images, or a field is none of :data:`ABOUT`.
    """
    dataset, own = data["name"], twin(model)
    if dataset not in _DATASETS:
        raise ValueError(f"data.name must be {' or '.join(_DATASETS)} for RobustBench; got {dataset!r}.")
    given = _about(about)
    found = (summary or {}).get("attacks", {}).get("autoattack")
    if summary is None or found is None:
        raise ValueError("the checkpoint's evaluation must have AutoAttack for RobustBench; run python -m "
                         "morel_jax.evaluate with --attacks=autoattack first.")
    if summary["examples"] != data["test_images"]:
        raise ValueError(f"AutoAttack must have judged all {data['test_images']} test images for RobustBench; got "
                         f"{summary['examples']}.")
    settings, accuracy = summary["settings"], f"{100 * found['accuracy']:.2f}"
    norm = _NORMS[settings["norm"]]
    model_id = given["id"] or f"{config['method']}_{config['model']['name']}"
    info = {
        "link": given["link"], "name": given["name"], "authors": given["authors"],
        "additional_data": bool(config["data"]["extra"]), "number_forward_passes": 1, "dataset": dataset,
        "venue": given["venue"], "architecture": own.architecture, "eps": _radius(settings["epsilon"], norm),
        "clean_acc": f"{100 * summary['clean']['accuracy']:.2f}", "reported": given["reported"] or accuracy,
        "autoattack_acc": accuracy,
    }
    weights = f"models/{dataset}/{norm}/{model_id}.pt"
    return Entry({f"model_info/{dataset}/{norm}/{model_id}.json": json.dumps(info, indent=2),
                  "network.py": _code(own, model, dataset, model_id, weights)}, weights,
                 tuple(field for field in ("link", "name", "authors") if not given[field]))


def _about(fields: Sequence[str]) -> dict[str, str]:
    given = dict(ABOUT)
    for field in fields:
        name, _, value = field.partition("=")
        if name not in ABOUT or not value:
            raise ValueError(f"entry must be FIELD=VALUE with one of the fields {', '.join(ABOUT)}; got {field!r}.")
        given[name] = value
    if not re.fullmatch(r"[\w.-]*", given["id"]):
        raise ValueError("entry's id names files: it must have letters, digits, '_', '-' and '.' alone; got "
                         f"{given['id']!r}.")
    return given


def _radius(epsilon: float, norm: str) -> str:
    """As the leaderboards print it: 8/255, or 0.5."""
    levels = round(255 * epsilon)
    return f"{levels}/255" if norm == "Linf" and abs(255 * epsilon - levels) < 1e-4 else f"{epsilon:.5g}"


def _code(own: Twin, model: Any, dataset: str, model_id: str, weights: str) -> str:
    buffers = ""
    if model.mean and not own.normalises:
        buffers = f'''        self.register_buffer("mu", torch.tensor({list(model.mean)}).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor({list(model.std)}).view(1, 3, 1, 1))

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)
'''
    return f'''"""{model_id}: {own.architecture}, for {dataset}."""
from pathlib import Path

import torch
from robustbench.model_zoo.architectures.{own.module} import {", ".join(own.imports)}


class Network({own.imports[0]}):
    """Images float32[n, 3, 32, 32] in [0, 1] -> logits."""

    def __init__(self):
        super().__init__({own.arguments})
{buffers}

# For robustbench/model_zoo/{dataset}.py, once the weights are uploaded and have an id there.
ENTRY = ("{model_id}", {{"model": Network, "gdrive_id": ""}})


def load(path=Path(__file__).parent / "{weights}"):
    """The trained network."""
    network = Network()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
'''
