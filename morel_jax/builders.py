"""Config to objects: every name looked up, every value checked, before anything compiles."""
import itertools
import math

import ml_collections
import numpy as np

from morel_jax import attacks, checks, data, losses, models
from morel_jax.attacks.linf import STARTS
from morel_jax.attacks.pgd import LOSSES
from morel_jax.configuration import METHODS, VARIANTS, defaults, flatten, unknown_field
from morel_jax.data import Split
from morel_jax.data.subset import stratified_rows
from morel_jax.files import local_path


def _one_of(*names):
    return lambda value: value in names, f"be one of {', '.join(names)}"


# Characters of a wrong value that are shown.
_SHOWN = 200
# Numbers reach the program as float32 and int32.
_LARGEST_FLOAT, _SMALLEST_FLOAT = (float(number) for number in (np.finfo(np.float32).max, np.finfo(np.float32).tiny))
_LARGEST_INT = 2**31 - 1
_POSITIVE = (lambda value: value > 0, "be positive")
_NOT_NEGATIVE = (lambda value: value >= 0, "be 0 or more")
_AT_LEAST_1 = (lambda value: value >= 1, "be at least 1")
_RADIUS = (lambda value: checks.SMALLEST_RADIUS <= value <= 1,
           f"be in [{checks.SMALLEST_RADIUS:.0e}, 1], the units of images in [0, 1]")
_SHARE = (lambda value: 0 <= value and np.float32(value) < 1, "be in [0, 1), also when rounded to float32")
_KINDS = ("natural", "adversarial")

_RULES = {
    "variant": _one_of(*VARIANTS),
    "method": _one_of(*METHODS),
    "epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "accumulate": _AT_LEAST_1,
    "ema_decay": _SHARE,
    "swa_first_epoch": _NOT_NEGATIVE,
    "data.crop_padding": _NOT_NEGATIVE,
    "data.cutmix_alpha": (lambda value: 1e-3 <= value <= 1e3, "be in [1e-3, 1e3]"),
    "data.extra_share": _SHARE,
    "data.placement": _one_of("auto", "device", "host"),
    "model.dtype": _one_of("float32", "bfloat16"),
    "model.mean": (lambda values: all(0 <= value <= 1 for value in values), "be in [0, 1], the units of images"),
    "model.std": (lambda values: all(1e-4 <= value <= 1 for value in values), "be in [1e-4, 1], the units of images"),
    "embedding.embed_dim": (lambda value: 1 <= value and 3 * value**2 <= _LARGEST_INT,
                            "be at least 1, and its attention's 3 embed_dim**2 weights fewer than 2**31"),
    "embedding.num_heads": _AT_LEAST_1,
    "batch_norm.momentum": _SHARE,
    "attack.epsilon": _RADIUS,
    "attack.step_size": _RADIUS,
    "attack.num_steps": _AT_LEAST_1,
    "attack.start": _one_of(*STARTS),
    "attack.loss": _one_of(*LOSSES),
    "attack.batch_norm": _one_of("running", "batch"),
    "loss.beta": _NOT_NEGATIVE,
    "loss.label_smoothing": _SHARE,
    "loss.awp_gamma": _SHARE,
    "loss.awp_first_epoch": _AT_LEAST_1,
    "loss.loat_theta": _NOT_NEGATIVE,
    "loss.loat_gamma": _NOT_NEGATIVE,
    "loss.loat_kind": _one_of("mse", "kl"),
    "loss.loat_base": _one_of("mart", "trades"),
    "loss.loat_last_epoch": _AT_LEAST_1,
    "morel.scalarization": _one_of("conic", "weighted_sum", *losses.GRADIENT_METHODS),
    "morel.cosine_weight": _NOT_NEGATIVE,
    "morel.contrastive_weight": (lambda value: 0 <= value < 1, "be in [0, 1), as Eq. 10 has it, or 0"),
    "morel.temperature": (lambda value: value >= 1e-6, "be at least 1e-6, the rounding of the similarities over it"),
    "morel.contrastive_rows": _one_of("both", "natural"),
    "morel.contrastive_reduction": _one_of("sum", "mean"),
    "optimizer.learning_rate": _NOT_NEGATIVE,
    "optimizer.momentum": _SHARE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.schedule": _one_of("drops", "cosine"),
    "optimizer.warmup_epochs": _NOT_NEGATIVE,
    "optimizer.drop_epochs": (lambda values: all(value >= 1 for value in values), "be at least 1, counted from 1"),
    "optimizer.drop_factors": (lambda values: all(value >= 0 for value in values), "be 0 or more"),
    "validation.split": _one_of("test", "holdout"),
    "validation.holdout": _AT_LEAST_1,
    "validation.examples": _NOT_NEGATIVE,
    "validation.every": _AT_LEAST_1,
    "validation.batch_size": _AT_LEAST_1,
    "validation.epsilon": _RADIUS,
    "validation.step_size": _RADIUS,
    "validation.num_steps": _AT_LEAST_1,
    "validation.start": _one_of(*STARTS),
    "validation.loss": _one_of(*LOSSES),
    "mesh.data": _NOT_NEGATIVE,
    "mesh.fsdp": _AT_LEAST_1,
    "mesh.fsdp_min_size": _NOT_NEGATIVE,
    "checkpoint.every_seconds": _POSITIVE,
}


def _error(field, rule, value):
    return ValueError(f"config.{field} must {rule}; got {repr(value)[:_SHOWN]}.")


def check_number(field, value, kind):
    """Raises ValueError unless a field's value is a number of ``kind``, int or float, that the program can hold."""
    if kind is int:
        if type(value) is not int:
            raise _error(field, "be of type int", value)
        if not -_LARGEST_INT <= value <= _LARGEST_INT:
            raise _error(field, "be less than 2**31 in size, as int32 has it", value)
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _error(field, "be a number", value)
    if not abs(value) <= _LARGEST_FLOAT:
        raise _error(field, "be finite, and at most 3.4e38 as float32 has it", value)
    if 0 < abs(value) < _SMALLEST_FLOAT:
        raise _error(field, "be 0 or at least 1.2e-38 in size, as float32 has it", value)


def _check_type(field, value, default):
    if isinstance(default, tuple):
        kind = type(default[0]) if default else float
        if not isinstance(value, tuple) or (kind is str and not all(isinstance(entry, str) for entry in value)):
            raise _error(field, f"be a tuple of {'names' if kind is str else 'numbers'}", value)
        if kind is not str:
            for place, entry in enumerate(value):
                check_number(f"{field}[{place}]", entry, kind)
    elif field == "seed" and type(value) is int:  # Of another type it is refused below.
        checks.seed(value, "config.seed")
    elif type(default) in (int, float):
        check_number(field, value, type(default))
    elif type(value) is not type(default):
        raise _error(field, f"be of type {type(default).__name__}", value)


def check(config, own_model=None):
    """Raises ValueError, naming field, rule and value, for the first thing wrong with ``config``.

    No ConfigDict, unknown or missing fields, wrong types, numbers that float32 or int32 does not hold, impossible
    values, broken conditions of conic scalarization (0 <= gamma < k_i, a_i >= 0) and combinations that cannot work.

    Args:
        config: what is given as a config.
        own_model: the caller's, which takes the place of ``config.model.name``; None: the config's.
    """
    if not isinstance(config, (ml_collections.ConfigDict, ml_collections.FrozenConfigDict)):
        raise ValueError("config must be an ml_collections.ConfigDict, such as morel_jax.configuration.recipe makes; "
                         f"got {type(config).__name__}.")
    known, given = flatten(defaults()), flatten(config)
    for field in sorted(given.keys() - known.keys()):
        raise ValueError(unknown_field(field))
    for field in sorted(known.keys() - given.keys()):
        raise ValueError(f"config.{field} is missing; defaults() in morel_jax.configuration has every field.")
    for field, value in given.items():
        _check_type(field, value, known[field])
        if field in _RULES:
            holds, rule = _RULES[field]
            if not holds(value):
                raise _error(field, rule, value)
    _check_combinations(config)
    for name in ("data_dir", "archive_dir", "cache_dir", "extra"):
        _path(config, name)
    if own_model is None:
        model(config, num_classes=1)


# Methods whose loss of an example depends on the others of the batch, and through what.
_COUPLED = {"morel_": "contrastive loss and class attention", "loat": "means over the images classified right or wrong"}


def _check_memory(config):
    for start, what in _COUPLED.items():
        if config.accumulate > 1 and config.method.startswith(start):
            raise _error("accumulate", f"be 1 for {config.method}, whose {what} need the whole batch at once",
                         config.accumulate)
    if config.batch_size % config.accumulate:
        raise _error("batch_size", f"be a multiple of accumulate ({config.accumulate})", config.batch_size)
    if config.model.remat and config.model.name == "convnet_small":
        raise _error("model.remat", "be False for convnet_small, which has no residual blocks", config.model.remat)


def _check_extras(config):
    if config.swa_first_epoch > config.epochs:
        raise _error("swa_first_epoch", f"be at most config.epochs ({config.epochs})", config.swa_first_epoch)
    if config.swa_first_epoch and config.ema_decay:
        raise _error("swa_first_epoch", "be 0 where config.ema_decay is not: one average is kept",
                     config.swa_first_epoch)
    if config.loss.label_smoothing and classification(config) not in ("standard", "pgd_at", "trades"):
        raise _error("loss.label_smoothing", f"be 0 for {config.method}, whose loss has no plain cross-entropy",
                     config.loss.label_smoothing)
    if config.data.cutmix and not (config.method == "standard"
                                   or (config.method == "trades" and config.attack.loss == "kl")):
        raise _error("data.cutmix", "be False but for standard, and for trades with attack.loss kl: elsewhere images "
                     f"need one label; the method is {config.method}, the attack's loss {config.attack.loss}",
                     config.data.cutmix)
    if bool(config.data.extra) != (config.data.extra_share > 0):
        raise _error("data.extra_share", "be positive where config.data.extra names a file, and else 0",
                     config.data.extra_share)
    if config.data.extra and not 1 <= round(config.batch_size * config.data.extra_share) < config.batch_size:
        raise _error("data.extra_share", f"give a batch of {config.batch_size} at least one extra and one own image",
                     config.data.extra_share)
    if config.loss.awp and config.accumulate > 1:
        raise _error("accumulate", "be 1 with config.loss.awp, as weights are perturbed for the whole batch",
                     config.accumulate)
    if config.loss.awp and uses_embedding(config) and config.morel.scalarization in losses.GRADIENT_METHODS:
        raise _error("loss.awp", f"be False with config.morel.scalarization {config.morel.scalarization}: weights are "
                     "perturbed along one loss's gradient", config.loss.awp)
    if config.optimizer.warmup_epochs >= config.epochs:
        raise _error("optimizer.warmup_epochs", f"be less than config.epochs ({config.epochs})",
                     config.optimizer.warmup_epochs)


def _check_combinations(config):
    _check_memory(config)
    _check_extras(config)
    if config.embedding.embed_dim % config.embedding.num_heads:
        raise _error("embedding.embed_dim", f"be a multiple of embedding.num_heads ({config.embedding.num_heads})",
                     config.embedding.embed_dim)
    if len(config.model.mean) != len(config.model.std):
        raise _error("model.std", f"have as many entries as model.mean ({len(config.model.mean)})", config.model.std)
    drops = config.optimizer.drop_epochs
    if len(drops) != len(config.optimizer.drop_factors):
        raise _error("optimizer.drop_factors", f"have as many entries as optimizer.drop_epochs ({len(drops)})",
                     config.optimizer.drop_factors)
    if any(later <= earlier for earlier, later in itertools.pairwise(drops)):
        raise _error("optimizer.drop_epochs", "rise", drops)
    if max(config.optimizer.drop_factors, default=0) * config.optimizer.learning_rate > _LARGEST_FLOAT:
        raise _error("optimizer.drop_factors", "give rates of at most 3.4e38 with optimizer.learning_rate",
                     config.optimizer.drop_factors)
    if not config.batch_norm.moves or not set(config.batch_norm.moves) <= set(forwards(config)):
        raise _error("batch_norm.moves", f"name some of {', '.join(forwards(config))}, "
                     f"which {config.method} sends through the network", config.batch_norm.moves)
    for section in ("attack", "validation"):
        if config[section].loss == "kl" and config[section].start == "clean":
            raise _error(f"{section}.start", "be random where the loss is kl, whose gradient at the clean image "
                         "is zero", "clean")
    if len(config.morel.preference) != 2:
        raise _error("morel.preference", "have two entries, (representation, classification)",
                     config.morel.preference)
    if config.morel.scalarization == "conic":
        try:
            losses.check_conic(config.morel.preference, config.morel.reference_point, config.morel.augmentation)
        except ValueError as error:
            raise ValueError(f"config.morel.{error}") from None
    elif min(config.morel.preference) < 0 or max(config.morel.preference) == 0:
        raise _error("morel.preference", "be 0 or more, and one of them positive", config.morel.preference)


def uses_embedding(config):
    """Whether the method has an embedding space."""
    return config.method.startswith("morel_")


def classification(config):
    """Name of the classification loss: the method's own, or the one that MOREL is put over."""
    return config.method.removeprefix("morel_")


def forwards(config):
    """Which kinds of images the update sends through the network."""
    return {"standard": ("natural",), "pgd_at": ("adversarial",)}.get(config.method, _KINDS)


def model(config, num_classes):
    """The classifier, a Flax module."""
    options = {"remat": True} if config.model.remat else {}  # Networks without residual blocks have no such attribute.
    return models.create(config.model.name, num_classes, dtype=config.model.dtype,
                         mean=tuple(config.model.mean) or None, std=tuple(config.model.std) or None, **options)


def pgd(section):
    """The PGD attack of ``config.attack`` or ``config.validation``, its numbers as float32 leaves."""
    return attacks.PGD(epsilon=np.float32(section.epsilon), step_size=np.float32(section.step_size),
                       num_steps=section.num_steps, start=section.start, loss=section.loss)


def _path(config, name):
    """A path of ``config.data``, or None where it is empty."""
    value = getattr(config.data, name)
    return local_path(value, f"config.data.{name}") if value else None


def dataset(config):
    """The data set as it is on disk: data.Dataset."""
    return data.load(config.data.name, data_dir=_path(config, "data_dir"), archive_dir=_path(config, "archive_dir"),
                     cache_dir=_path(config, "cache_dir"), test_split=config.data.test_split or None)


def blank_dataset(config):
    """A data.Dataset of the shapes that :func:`dataset` would give, for which nothing is downloaded or decoded."""
    return data.blank(config.data.name, data_dir=_path(config, "data_dir"), test_split=config.data.test_split or None)


# Counts changes in which images `splits` takes: a run keeps those that it began with.
SPLITS_REVISION = 2


def _rows(split, rows):
    # What `blank_dataset` gives is one repeated entry, whose copies would take the memory that it saves.
    return Split(*(array[:len(rows)] if array.strides[0] == 0 else array[rows]
                   for array in (split.images, split.labels)))


def splits(config, dataset):
    """(training Split, validation Split) as ``config.validation`` says.

    A part of a split has each class in proportion, and its rows in the split's order; see
    :func:`~morel_jax.data.subset.stratified_rows`.

    Raises:
        ValueError: more images are to be held out, or in a batch, than there are, a class would have no image left to
            train on, or a number of the config does not fit the images.
    """
    train, validation = dataset.train, dataset.test
    if config.validation.split == "holdout":
        held_out = config.validation.holdout
        if held_out >= len(train.labels):
            raise _error("validation.holdout", f"be less than the {len(train.labels)} training images", held_out)
        rows = stratified_rows(train.labels, held_out)
        validation, train = _rows(train, rows), _rows(train, np.delete(np.arange(len(train.labels)), rows))
        missing = np.setdiff1d(validation.labels, train.labels)
        if len(missing):
            raise _error("validation.holdout", f"leave images of every class to train on; class {missing[0]} has none "
                         "left", held_out)
    if 0 < config.validation.examples < len(validation.labels):
        validation = _rows(validation, stratified_rows(validation.labels, config.validation.examples))
    if config.batch_size > len(train.labels):
        raise _error("batch_size", f"be at most the number of training images, {len(train.labels)}",
                     config.batch_size)
    if config.epochs * (len(train.labels) // config.batch_size) > _LARGEST_INT:
        raise _error("epochs", "make fewer than 2**31 steps, as they are counted in int32", config.epochs)
    height, width, channels = train.images.shape[1:]
    if config.data.crop_padding >= min(height, width):
        raise _error("data.crop_padding", f"be less than the images' smaller side, {min(height, width)}",
                     config.data.crop_padding)
    if config.model.mean and len(config.model.mean) != channels:
        raise _error("model.mean", f"have one entry a channel ({channels})", config.model.mean)
    return train, validation


def check_images(config, dataset=None):
    """Raises as :func:`splits` does, from what is known of the images before they are read.

    Args:
        config: checked ConfigDict.
        dataset: the caller's own; None: the config's, of which nothing is known in a ``config.data.data_dir``.
    """
    if dataset is not None or not config.data.data_dir:
        splits(config, blank_dataset(config) if dataset is None else dataset)


def with_extra(config, train, num_classes):
    """The training Split with the images of ``config.data.extra`` behind its own; as it is where there are none."""
    if not config.data.extra:
        return train
    return data.load_extra(str(_path(config, "extra")), train, num_classes)


def keeps_average(config):
    """Whether an average of the weights is kept, and judged."""
    return config.ema_decay > 0 or config.swa_first_epoch > 0


def learning_rate(config, epoch):
    """Rate of an epoch, counted from 1.

    It rises linearly over the warm-up's epochs; after them it is the initial one times the factor of the last drop
    reached, or of half a cosine, 1 in the first epoch after the warm-up and 0 after the last.
    """
    initial, warmup = config.optimizer.learning_rate, config.optimizer.warmup_epochs
    if epoch <= warmup:
        return initial * epoch / (warmup + 1)
    if config.optimizer.schedule == "cosine":
        return initial * 0.5 * (1 + math.cos(math.pi * (epoch - 1 - warmup) / (config.epochs - warmup)))
    factor = 1.0
    for first, value in zip(config.optimizer.drop_epochs, config.optimizer.drop_factors, strict=True):
        if epoch >= first:
            factor = value
    return initial * factor
