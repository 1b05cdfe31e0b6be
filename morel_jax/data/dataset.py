"""The form that every source of images takes: two splits of unsigned bytes with integer labels."""
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from morel_jax.data.mapped import Joined

_HINTS = {"images": " Images in [0, 1] become that by (255 * images).round().astype('uint8').",
          "labels": " They are class numbers: one-hot rows become that by labels.argmax(-1).astype('int32')."}


def check_arrays(images: Any, labels: Any, image_name: str = "images", label_name: str = "labels") -> None:
    """Raises ValueError, naming rule and value, unless the arrays are images [n, h, w, c] and their labels int[n]."""
    if np.ndim(images) != 4:
        raise ValueError(f"{image_name} must have the shape [n, height, width, channels]; got {np.shape(images)}.")
    if not len(images):
        raise ValueError(f"{image_name} must hold at least one image; got none.")
    if 0 in np.shape(images):
        raise ValueError(f"{image_name} must have no side of length 0; got {np.shape(images)}.")
    if np.shape(labels) != (len(images),):
        hint = ""
        if np.ndim(labels) == 2 and len(labels) == len(images):
            hint = f" Give {label_name}[:, 0]." if np.shape(labels)[1] == 1 else _HINTS["labels"]
        raise ValueError(f"{label_name} must have the shape ({len(images)},), one per image; got {np.shape(labels)}."
                         + hint)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{label_name} must be integers; got {labels.dtype}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split, row i of one belonging to row i of the other.

    Attributes:
        images: n >= 1, intensities 0 to 255; may be memory-mapped and read-only, or several such arrays in a
            :class:`~morel_jax.data.mapped.Joined`.
        labels: each >= 0.

    Raises:
        TypeError: an array has another dtype, or is no array.
        ValueError: shapes do not fit, there is no row, or a label is negative.
    """
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]

    def __post_init__(self) -> None:
        for field, array, dtype in (("images", self.images, "uint8"), ("labels", self.labels, "int32")):
            if not isinstance(array, (np.ndarray, Joined)):
                kind = f"{type(array).__module__}.{type(array).__name__}"
                raise TypeError(f"Split.{field} must be a NumPy array of {dtype}; got one of type {kind}, which "
                                "numpy.asarray may turn into one.")
            if array.dtype != dtype:
                raise TypeError(f"Split.{field} must be a NumPy array of {dtype}; got {array.dtype}." + _HINTS[field])
        check_arrays(self.images, self.labels, "Split.images", "Split.labels")
        if self.labels.min() < 0:
            raise ValueError("Split.labels must be >= 0 (TFDS writes -1 where a split has no labels); "
                             f"got {self.labels.min()}.")

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification.

    Attributes:
        name: the name it was loaded by.
        train, test: splits to train and to evaluate on, of one image shape.
        num_classes: number of classes; every label is below it.
        class_names: one name per class, in the order of the labels.
        sha256: of the files that it was made from, where those are a user's own and may change; else empty.

    Raises:
        TypeError: `train` or `test` is no Split.
        ValueError: the splits' image shapes differ, a label is out of range, or the number of names is not
            `num_classes`.
    """
    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    sha256: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, (int, np.integer)) or self.num_classes < 1:
            raise ValueError(f"Dataset.num_classes must be a whole number of at least 1; got {self.num_classes!r}.")
        object.__setattr__(self, "num_classes", int(self.num_classes))  # JSON, which keeps it, knows no NumPy.
        for field, split in (("train", self.train), ("test", self.test)):
            if not isinstance(split, Split):
                raise TypeError(f"Dataset.{field} must be a Split; got {type(split).__name__}.")
            if (largest := split.labels.max()) >= self.num_classes:
                raise ValueError(f"{self.name}: {field} labels must be below num_classes = {self.num_classes}; "
                                 f"got {largest}.")
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(f"{self.name}: train and test images must have one shape; "
                             f"got {self.train.images.shape[1:]} and {self.test.images.shape[1:]}.")
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{self.name}: class_names must hold num_classes = {self.num_classes} names; "
                             f"got {len(self.class_names)}.")

    def record(self) -> dict[str, Any]:
        """What a run's folder records of it: a dict for JSON."""
        record = {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes,
                "class_names": list(self.class_names), "train_images": len(self.train), "test_images": len(self.test)}
        return record | ({"sha256": self.sha256} if self.sha256 else {})

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of one image."""
        return self.train.images.shape[1:]
