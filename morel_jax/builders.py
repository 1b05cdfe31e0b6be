"""From the config to objects: the classifier, the attack, and the data with their splits."""
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morel_jax import attacks, data, models
from morel_jax.attacks.norms import largest_radius
from morel_jax.data import Dataset, Split
from morel_jax.data.sources import own_place
from morel_jax.data.subset import stratified_rows
from morel_jax.files import local_path
from morel_jax.methods import METHODS
from morel_jax.models.precision import PRECISIONS
from morel_jax.schema import LARGEST_INT, error


def model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The classifier, a Flax module."""
    options: dict[str, Any] = {}
    if config.model.remat:  # Networks without residual blocks have no such attribute.
        options["remat"] = True
    if METHODS[config.method].is_conditioned(config):
        options["batch_norm_condition"] = config.morel.judged_preference
    return models.create(config.model.name, num_classes, dtype=PRECISIONS[config.model.precision].dtype,
                         mean=tuple(config.model.mean) or None, std=tuple(config.model.std) or None, **options)


def pgd(section: ConfigDict) -> attacks.PGD:
    """The PGD attack of ``config.attack`` or ``config.validation``, its numbers as float32 leaves."""
    return attacks.PGD(epsilon=np.float32(section.epsilon), step_size=np.float32(section.step_size),
                       num_steps=section.num_steps, start=section.start, loss=section.loss, norm=section.norm)


def _path(config: ConfigDict, name: str) -> Path | None:
    """A path in ``config.data``, or None where it is empty."""
    value = getattr(config.data, name)
    return local_path(value, f"config.data.{name}") if value else None


def dataset(config: ConfigDict) -> Dataset:
    """The config's data set."""
    return data.load(config.data.name, data_dir=_path(config, "data_dir"), archive_dir=_path(config, "archive_dir"),
                     cache_dir=_path(config, "cache_dir"), test_split=config.data.test_split or None,
                     image_size=config.data.image_size)


def blank_dataset(config: ConfigDict) -> Dataset:
    """A Dataset with the shapes of :func:`dataset`'s, for which nothing is downloaded or decoded."""
    return data.blank(config.data.name, data_dir=_path(config, "data_dir"), test_split=config.data.test_split or None,
                      image_size=config.data.image_size)


# Counts changes in which images `splits` takes; a run keeps the revision that it began with.
SPLITS_REVISION = 2


def _rows(split: Split, rows: Int[np.ndarray, " m"]) -> Split:
    # A blank data set is one repeated entry, whose copies would take the memory that it saves.
    return Split(*(array[:len(rows)] if array.strides[0] == 0 else array[rows]
                   for array in (split.images, split.labels)))


def splits(config: ConfigDict, dataset: Dataset) -> tuple[Split, Split]:
    """(training, validation), as ``config.validation`` says.

    Parts are taken by :func:`~morel_jax.data.subset.stratified_rows`.

    Raises:
        ValueError: there are too few images to hold out or for a batch, a class would have no image left to train on,
            or a number of the config does not fit the images.
    """
    train, validation = dataset.train, dataset.test
    if config.validation.split == "holdout":
        held_out = config.validation.holdout
        if held_out >= len(train.labels):
            raise error("validation.holdout", f"be less than the {len(train.labels)} training images", held_out)
        rows = stratified_rows(train.labels, held_out)
        validation, train = _rows(train, rows), _rows(train, np.delete(np.arange(len(train.labels)), rows))
        missing = np.setdiff1d(validation.labels, train.labels)
        if len(missing):
            raise error("validation.holdout", f"leave images of every class to train on; class {missing[0]} has none "
                         "left", held_out)
    if 0 < config.validation.examples < len(validation.labels):
        validation = _rows(validation, stratified_rows(validation.labels, config.validation.examples))
    if config.batch_size > len(train.labels):
        raise error("batch_size", f"be at most the number of training images, {len(train.labels)}",
                     config.batch_size)
    if config.epochs * (len(train.labels) // config.batch_size) > LARGEST_INT:
        raise error("epochs", "make fewer than 2**31 steps, as they are counted in int32", config.epochs)
    height, width, channels = train.images.shape[1:]
    for name, section in (("attack", config.attack), ("validation", config.validation)):
        largest = largest_radius(section.norm, train.images.shape[1:])
        for field, value in (("epsilon", section.epsilon), ("step_size", section.step_size)):
            if value > largest:
                raise error(f"{name}.{field}", f"be at most {largest:g}, where the ball in {section.norm} holds every "
                            f"image of shape {train.images.shape[1:]}", value)
    if config.data.crop_padding >= min(height, width):
        raise error("data.crop_padding", f"be less than the images' smaller side, {min(height, width)}",
                     config.data.crop_padding)
    if config.model.mean and len(config.model.mean) != channels:
        raise error("model.mean", f"have one entry per channel ({channels})", config.model.mean)
    return train, validation


def check_images(config: ConfigDict, dataset: Dataset | None = None) -> None:
    """Raises as :func:`splits` does, from what is known of the images before they are read.

    Args:
        dataset: the caller's own; None: the config's, of which nothing is known if it is in ``config.data.data_dir`` or
            the user's own files.
    """
    if dataset is not None or not (config.data.data_dir or own_place(config.data.name)):
        splits(config, blank_dataset(config) if dataset is None else dataset)


def with_extra(config: ConfigDict, train: Split, num_classes: int) -> Split:
    """The training images, followed by those of ``config.data.extra`` if there are any."""
    if not config.data.extra:
        return train
    return data.load_extra(config.data.extra, train, num_classes, _path(config, "cache_dir"))
