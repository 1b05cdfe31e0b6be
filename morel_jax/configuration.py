"""All settings in one tree, the recipes that fill it by network, method and variant, and its checks.

Files in ``configs/`` start from :func:`recipe` and add what belongs to their data set. A config holds plain values
only.
"""
import difflib
import os
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from morel_jax import models, optimizer
from morel_jax.attacks.norms import NORMS
from morel_jax.attacks.pgd import FROM_CLEAN, LOSSES
from morel_jax.attacks.starts import STARTS
from morel_jax.data.sources import own_place
from morel_jax.files import load_module, local_path
from morel_jax.methods import KINDS, METHODS
from morel_jax.methods.types import Rates
from morel_jax.models.precision import PRECISIONS
from morel_jax.schema import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    RADIUS,
    SHARE,
    Field,
    Rule,
    check_value,
    error,
    one_of,
    shown,
)

VARIANTS = ("paper", "reference")
# Threat models by name: (radius, step size) of the training attack's PGD-10.
# In L2 Rice et al., arXiv:2002.11569, and RobustBench's radius 0.5; in Linf the defaults of FIELDS.
THREATS = {"linf": (8 / 255, 2 / 255), "l2": (128 / 255, 15 / 255)}
# In a checkout a link to the folder configs/ at the top; in a wheel the files.
SHIPPED_CONFIGS = Path(__file__).parent / "configs"


def _pgd(section: str, whose: str, source: str, swept: bool, epsilon: float, step_size: float,
         num_steps: int) -> dict[str, Field]:
    """The fields of a PGD attack."""
    return {
        f"{section}.norm": Field("linf", f"Norm of {whose}: linf or l2.", one_of(*NORMS)),
        f"{section}.epsilon": Field(epsilon, f"Radius of {whose}, in units of images in [0, 1].", RADIUS, source,
                                    swept=swept),
        f"{section}.step_size": Field(step_size, f"Step size of {whose}, in the same units.", RADIUS, source,
                                      swept=swept),
        f"{section}.num_steps": Field(num_steps, f"Steps of {whose}.", AT_LEAST_1, source),
        f"{section}.start": Field("uniform", f"Start of {whose}: uniform in the ball, normal (0.001 N(0, 1)) around "
                                  "the image, or clean, the image itself.", one_of(*STARTS), "reference"),
        f"{section}.loss": Field("ce", f"What {whose} climbs.", one_of(*LOSSES), "reference"),
    }


# The run's own fields, and those of every method and of the optimiser.
FIELDS = types.MappingProxyType({
    "seed": Field(0, "Seed of everything random in the run; in 0 .. 2**32 - 1.", swept=True),
    "variant": Field("paper", "Which reading the recipe's values follow where paper and published code differ.",
                     one_of(*VARIANTS)),
    "method": Field("morel_mart", "What is minimised.", one_of(*METHODS)),
    "epochs": Field(100, "Passes over the training images. May change in a resumption if the rates of those that are "
                    "begun stay.", AT_LEAST_1, "paper, 4.1"),
    "batch_size": Field(8, "Images of a step, over all devices. The last, incomplete batch of an epoch is dropped.",
                        AT_LEAST_1, "paper, 4.1: all MOREL runs"),
    "accumulate": Field(1, "Equal parts of a batch that are attacked and differentiated one after another.",
                        AT_LEAST_1),
    "data.name": Field("cifar10", "The data set: a known one, one in data_dir, or one's own images: folder:PATH with "
                       "class folders, or npz:PATH."),
    "data.image_size": Field(0, "Of folder:PATH: the shorter side is scaled to so many pixels, and the square in the "
                             "middle is taken; 0: all images must have one size.",
                             Rule(lambda value: 0 <= value <= 4096, "be in 0 .. 4096")),
    "data.data_dir": Field("", "Folder of data sets that TFDS prepared; empty: the archives.", may_differ=True),
    "data.archive_dir": Field("", "Folder with the data set's own archives; empty: they are downloaded.",
                              may_differ=True),
    "data.cache_dir": Field("", "Where decoded arrays are kept; empty: the user's cache folder.", may_differ=True),
    "data.test_split": Field("", "Split to evaluate on; empty: the data set's own."),
    "data.crop_padding": Field(4, "Pixels around an image out of which it is cropped at random.", NOT_NEGATIVE,
                               "reference"),
    "data.flip": Field(True, "Whether images are mirrored at random.", source="reference"),
    "data.cutmix": Field(False, "Whether images get rectangles from other images (arXiv:1905.04899).",
                         source="with TRADES: Rebuffi et al., NeurIPS 2021"),
    "data.cutmix_alpha": Field(1.0, "Of the Beta distribution of the rectangles' shares.",
                               Rule(lambda value: 1e-3 <= value <= 1e3, "be in [1e-3, 1e3]"), "CutMix's own",
                               traced="cutmix_alpha"),
    "data.extra": Field("", "Further training images, such as generated ones (arXiv:2110.09468): .npz files with image "
                        "and label, as a file, folder or pattern, or several with commas between.", may_differ=True),
    "data.extra_share": Field(0.0, "Share of each batch that they make up.", SHARE),
    "data.placement": Field("auto", "Where training images lie: device, host (they are streamed), or auto, by their "
                            "size.", one_of("auto", "device", "host"), may_differ=True),
    "model.name": Field("resnet18", "The architecture."),
    "model.precision": Field("tf32", "Of the network in training: float32; tf32, which is float32 with shorter "
                             "products on an accelerator; or bfloat16. Parameters and statistics stay float32, and "
                             "evaluations compute in full float32.", one_of(*PRECISIONS), "PyTorch's convolutions",
                             formerly="model.dtype", former_values={"float32": "tf32"}),
    "model.mean": Field((), "Subtracted inside the model, one per channel of images in [0, 1]; empty for none.",
                        Rule(lambda values: all(0 <= value <= 1 for value in values),
                             "be in [0, 1], the units of images"), "reference: no normalisation"),
    "model.std": Field((), "Divisors inside the model, as many as mean.",
                       Rule(lambda values: all(1e-4 <= value <= 1 for value in values),
                            "be in [1e-4, 1], the units of images")),
    "model.remat": Field(False, "Less memory in the update: residual blocks are computed twice rather than kept.",
                         may_differ=True),
    "batch_norm.momentum": Field(0.9, "Weight of the old running statistics.", SHARE,
                                 "PyTorch's 0.1, counted the other way", traced="batch_norm_momentum"),
    "batch_norm.statistics_from": Field(KINDS, "Images whose statistics move the running ones each step, in this "
                                        "order.", formerly="batch_norm.moves"),
    **_pgd("attack", "the training attack", "paper, 4.1: PGD-10, 8/255, epsilon/4, random start", swept=True,
           epsilon=THREATS["linf"][0], step_size=THREATS["linf"][1], num_steps=10),
    "attack.batch_norm": Field("running", "Statistics that the network uses while it is attacked: running ones or the "
                               "batch's.", one_of("running", "batch"), "reference"),
    "validation.split": Field("test", "Where robust_accuracy, and with it best, is measured: test, or holdout, "
                              "training images that are kept out.", one_of("test", "holdout"), "reference"),
    "validation.holdout": Field(1000, "How many training images holdout keeps out, each class in proportion.",
                                AT_LEAST_1),
    "validation.examples": Field(0, "Only this many images of the split, each class in proportion; 0: all.",
                                 NOT_NEGATIVE),
    "validation.every": Field(1, "Epochs between validations; the last epoch always has one.", AT_LEAST_1),
    "validation.batch_size": Field(128, "Images evaluated at a time; the last batch is filled up.", AT_LEAST_1,
                                   may_differ=True),
    **_pgd("validation", "validation's PGD", "paper, 4.1 and 4.2: PGD-20, epsilon/10", swept=False,
           epsilon=THREATS["linf"][0], step_size=0.8 / 255, num_steps=20),
    "mesh.data": Field(0, "Devices with a whole copy of the parameters each, among which the batch is split; 0: all "
                       "there are.", NOT_NEGATIVE, may_differ=True),
    "mesh.fsdp": Field(1, "Devices that share one copy of the parameters; the batch is split among them too.",
                       AT_LEAST_1, may_differ=True),
    "mesh.fsdp_min_size": Field(1024, "Arrays of fewer elements stay whole.", NOT_NEGATIVE, may_differ=True),
    "checkpoint.every_seconds": Field(600.0, "Seconds between saves of last within an epoch; the end of each epoch is "
                                      "saved anyway.", POSITIVE, may_differ=True),
    "cuda_graph": Field(False, "On a GPU, launch the whole program as one graph, for small batches, where launches "
                        "take longer than the work. Not every cuDNN kernel allows it.", may_differ=True),
    **optimizer.FIELDS,
    **{name: field for method in METHODS.values() for name, field in method.fields.items()},
})


def defaults() -> ConfigDict:
    """Every field's default, locked: MOREL(<-MART) as the paper has it, ResNet18, CIFAR-10."""
    return nested({name: field.default for name, field in FIELDS.items()})


def flatten(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Nested ConfigDict (or dict) -> {"section.field": value}, lists as tuples."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            flat |= {f"{name}.{field}": inner for field, inner in flatten(value).items()}
        else:
            flat[name] = tuple(value) if isinstance(value, list) else value
    return flat


def nested(flat: Mapping[str, Any]) -> ConfigDict:
    """The inverse of :func:`flatten`, locked. Fields of earlier versions get their present names."""
    present = {field.formerly: name for name, field in FIELDS.items() if field.formerly}
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        if name in present:
            name = present[name]
            value = FIELDS[name].former_values.get(value, value) if FIELDS[name].former_values else value
        section, _, last = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[last] = value
    return ml_collections.ConfigDict(tree).lock()


def unknown_field(field: str) -> str:
    """The message for a field that no config has, with the fields that were probably meant."""
    for known, declared in FIELDS.items():
        if declared.formerly and field == declared.formerly:
            return f"config.{field} is config.{known} in this version."
    section, _, name = field.rpartition(".")

    def likeness(known: str) -> float:
        known_section, _, known_name = known.rpartition(".")
        # People shorten learning_rate to lr.
        shortened = name == "".join(word[0] for word in known_name.split("_"))
        alike = max(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((name, known_name), (field, known)))
        return (0.9 if shortened and "_" in known_name else alike) + 0.1 * (section == known_section)

    nearest = sorted(FIELDS, key=likeness, reverse=True)[:3]
    likely = [known for known in nearest if likeness(known) >= max(0.6, likeness(nearest[0]) - 0.1)] or nearest
    return (f"config.{field} is not a field of this library's configs; nearest: "
            f"{', '.join(f'config.{known}' for known in likely)}.")


def describe_fields() -> str:
    """How a command line sets fields, and every field with its default and text, for a terminal."""
    lines = ["Fields of a config and defaults. --config=FILE sets them, --config.SECTION.FIELD=VALUE one of them.", ""]
    for name, field in sorted(FIELDS.items()):
        lines += [f"{name} = {shown(field.default)}", textwrap.indent(textwrap.fill(field.text(), 100), "    ")]
    return "\n".join(lines)


def config_file(name: str) -> str:
    """Path of a config's file from a path, or from the name of a shipped one, such as ``cifar10``.

    Raises:
        ValueError: there is no such file; the message lists the shipped ones.
    """
    if os.path.isfile(name):
        return str(name)
    shipped = {path.stem: path for path in SHIPPED_CONFIGS.glob("*.py")}
    if name not in shipped:
        raise ValueError("--config must be a Python file with get_config(), or one of the shipped "
                         f"{', '.join(sorted(shipped))}, and after a colon its argument; got {name!r}, and there is no "
                         "such file.")
    return str(shipped[name])


def load_file(path: str | os.PathLike, *spec: str) -> Any:
    """What ``get_config(*spec)`` of a Python file returns; whatever the file raises comes through."""
    module = load_module(path)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} must have a function get_config(spec=''); it has none.")
    return module.get_config(*spec)


def recipe(spec: str | None, architectures: Rates | None = None) -> ConfigDict:
    """Settings for "architecture,method,variant,threat", such as ``resnet18,morel_mart,paper,l2``, locked.

    Args:
        spec: up to four names, separated by commas; by default ``resnet18``, ``morel_mart``, ``paper``, ``linf``.
        architectures: {network: {field of ``config.optimizer``: value}}, a config file's rates for MOREL besides the
            paper's.

    Raises:
        ValueError: too many names, or an unknown method, variant or threat.
    """
    names = [name.strip() for name in (spec or "").split(",") if name.strip()]
    if len(names) > 4:
        raise ValueError(f'a config takes "architecture,method,variant,threat"; got {spec!r}.')
    architecture, name, variant, threat = names + ["resnet18", "morel_mart", "paper", "linf"][len(names):]
    if threat not in THREATS:
        raise ValueError(f"a config's threat must be one of {', '.join(THREATS)}; got {threat!r}.")
    config = defaults()
    config.model.name, config.method, config.variant = architecture, name, variant
    for field in ("method", "variant"):
        check_value(field, FIELDS[field], config[field])
    method = METHODS[name]
    config.attack.loss = method.attack_loss
    config.batch_norm.statistics_from = method.passes
    method.recipe(config, architectures or {})
    if variant == "reference":  # Where the authors' code reads differently from the paper.
        config.attack.update({"epsilon": 0.031, "step_size": 0.007, "start": "normal"})
        config.validation.update({"epsilon": 0.031, "step_size": 0.003})
        config.morel.update({"contrastive_rows": "natural", "contrastive_reduction": "mean"})
        method.reference(config)
    if threat != "linf":
        set_radius(config, threat, *THREATS[threat])
        if variant == "reference" and config.attack.loss == "kl":  # The step of TRADES's code in L2.
            config.attack.step_size = 2 * config.attack.epsilon / config.attack.num_steps
    return config


def set_radius(config: ConfigDict, norm: str, epsilon: float, step_size: float | None = None) -> None:
    """Writes a threat model into a config's attack and validation.

    Args:
        epsilon: radius in ``norm``, in units of images in [0, 1].
        step_size: of the training attack; None: epsilon / 4, as in the paper, 4.1. Validation's is epsilon / 10.
    """
    config.attack.update({"norm": norm, "epsilon": epsilon, "step_size": step_size or epsilon / 4})
    config.validation.update({"norm": norm, "epsilon": epsilon, "step_size": epsilon / 10})


def check(config: Any, own_model: Any = None) -> None:
    """Raises ValueError, naming field, rule and value, for the first thing wrong with ``config``.

    Wrong are: no ConfigDict, unknown or missing fields, types, numbers that float32 or int32 cannot hold, impossible
    values, broken conditions of conic scalarization (0 <= gamma < k_i, a_i >= 0) and combinations that cannot work.
    ``own_model`` is the caller's, in place of ``config.model.name``.
    """
    if not isinstance(config, (ml_collections.ConfigDict, ml_collections.FrozenConfigDict)):
        raise ValueError("config must be an ml_collections.ConfigDict, such as morel_jax.configuration.recipe makes; "
                         f"got {type(config).__name__}.")
    given = flatten(config)
    for name in sorted(given.keys() - FIELDS.keys()):
        raise ValueError(unknown_field(name))
    for name in sorted(FIELDS.keys() - given.keys()):
        raise ValueError(f"config.{name} is missing; defaults() in morel_jax.configuration has every field.")
    for name, value in given.items():
        check_value(name, FIELDS[name], value)
    _check_batch(config)
    _check_images(config)
    optimizer.check(config)
    for method in METHODS.values():
        method.check(config)
    for name in ("data_dir", "archive_dir", "cache_dir", "extra"):
        if config.data[name]:
            for path in config.data[name].split(",") if name == "extra" else [config.data[name]]:
                local_path(path.strip(), f"config.data.{name}")
    if own_model is None:
        models.create(config.model.name, num_classes=1)
    elif METHODS[config.method].is_conditioned(config):
        raise error("morel.conditioned", "be False for a network of your own, which takes no preference", True)


def _check_batch(config: ConfigDict) -> None:
    method = METHODS[config.method]
    if method.coupling and config.accumulate > 1:
        raise error("accumulate", f"be 1 for {method.name}, whose {method.coupling} need the whole batch at once",
                    config.accumulate)
    if config.batch_size % config.accumulate:
        raise error("batch_size", f"be a multiple of accumulate ({config.accumulate})", config.batch_size)
    if config.model.remat and config.model.name == "convnet_small":
        raise error("model.remat", "be False for convnet_small, which has no residual blocks", config.model.remat)
    if config.loss.awp and config.accumulate > 1:
        raise error("accumulate", "be 1 with config.loss.awp, as weights are perturbed for the whole batch",
                    config.accumulate)
    if config.loss.awp and (method.combine(config) is not None or method.famo_objectives(config)):
        raise error("loss.awp", f"be False with config.morel.scalarization {config.morel.scalarization}: weights are "
                    "perturbed along one loss's gradient", config.loss.awp)
    if config.loss.label_smoothing and not method.smooths_labels:
        raise error("loss.label_smoothing", f"be 0 for {method.name}, whose loss has no plain cross-entropy",
                    config.loss.label_smoothing)
    if not config.batch_norm.statistics_from or not set(config.batch_norm.statistics_from) <= set(method.passes):
        raise error("batch_norm.statistics_from", f"name some of {', '.join(method.passes)}, which {method.name} sends "
                    "through the network", config.batch_norm.statistics_from)


def _check_images(config: ConfigDict) -> None:
    method, data = METHODS[config.method], config.data
    own = own_place(data.name)
    if data.image_size and (own is None or own[0] != "folder"):
        raise error("data.image_size", f"be 0 unless config.data.name is folder:PATH; it is {data.name}",
                    data.image_size)
    attack_needs_labels = len(method.passes) > 1 and config.attack.loss not in FROM_CLEAN
    if data.cutmix and (attack_needs_labels or not method.mixes_labels):
        able = ", ".join(name for name, one in METHODS.items() if one.mixes_labels)
        raise error("data.cutmix", f"be False but for {able}, an attack of theirs climbing {' or '.join(FROM_CLEAN)}: "
                    f"elsewhere images need one label; the method is {method.name}, the attack's loss "
                    f"{config.attack.loss}", data.cutmix)
    if bool(data.extra) != (data.extra_share > 0):
        raise error("data.extra_share", "be positive where config.data.extra names a file, and else 0",
                    data.extra_share)
    if data.extra and not 1 <= round(config.batch_size * data.extra_share) < config.batch_size:
        raise error("data.extra_share", f"give a batch of {config.batch_size} at least one extra and one own image",
                    data.extra_share)
    if len(config.model.mean) != len(config.model.std):
        raise error("model.std", f"have as many entries as model.mean ({len(config.model.mean)})", config.model.std)
    for section in ("attack", "validation"):
        for field in ("epsilon", "step_size"):
            if config[section].norm == "linf" and getattr(config[section], field) > 1:
                raise error(f"{section}.{field}", RADIUS.text, getattr(config[section], field))
        if config[section].loss in FROM_CLEAN and config[section].start == "clean":
            raise error(f"{section}.start", f"be random where the loss is {config[section].loss}, whose gradient at "
                        "the clean image is zero", "clean")
