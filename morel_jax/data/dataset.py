"""What every source of images comes to: two splits of unsigned bytes with integer labels."""

import dataclasses

import numpy as np

_SHAPES = {"images": "[n, h, w, c]", "labels": "[n]"}
_HINTS = {"images": " Images in [0, 1] become that by (255 * images).round().astype('uint8').",
          "labels": " They are class numbers: one-hot rows become that by labels.argmax(1).astype('int32')."}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split, row i of one belonging to row i of the other.

    Attributes:
        images: uint8[n, h, w, c], n >= 1, intensities 0 to 255; may be memory-mapped and read-only.
        labels: int32[n], each >= 0.

    Raises:
        TypeError: an array has another dtype, or is no array.
        ValueError: shapes do not fit, there is no row, or a label is negative.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        for field, array, dtype, ndim in (("images", self.images, np.uint8, 4),
                                          ("labels", self.labels, np.int32, 1)):
            if not isinstance(array, np.ndarray):
                kind = f"{type(array).__module__}.{type(array).__name__}"
                raise TypeError(f"Split.{field} must be a NumPy array of {np.dtype(dtype)}; got one of type {kind}, "
                                "which numpy.asarray may turn into one.")
            if array.dtype != dtype:
                raise TypeError(f"Split.{field} must be a NumPy array of {np.dtype(dtype)}; got {array.dtype}."
                                + _HINTS[field])
            if array.ndim != ndim:
                raise ValueError(f"Split.{field} must have shape {_SHAPES[field]}; got {list(array.shape)}."
                                 + (_HINTS[field] if field == "labels" else ""))
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError("Split.images and Split.labels must have the same number of rows, at least one; "
                             f"got {len(self.images)} and {len(self.labels)}.")
        if 0 in self.images.shape:
            raise ValueError(f"Split.images must have no side of length 0; got {list(self.images.shape)}.")
        if self.labels.min() < 0:
            raise ValueError("Split.labels must be >= 0 (TFDS writes -1 where a split has no labels); "
                             f"got {self.labels.min()}.")

    def __len__(self):
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification.

    Attributes:
        name: the name it was loaded by.
        train: Split to train on.
        test: Split to judge on; same image shape as `train`.
        num_classes: number of classes; every label is below it.
        class_names: one name a class, in the order of the labels.

    Raises:
        ValueError: the splits' image shapes differ, a label is out of range, or the number of names is not
            `num_classes`.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]

    def __post_init__(self):
        for field in ("train", "test"):
            if not isinstance(getattr(self, field), Split):
                raise TypeError(f"Dataset.{field} must be a Split; got {type(getattr(self, field)).__name__}.")
        if not isinstance(self.num_classes, (int, np.integer)) or self.num_classes < 1:
            raise ValueError(f"Dataset.num_classes must be a whole number of at least 1; got {self.num_classes!r}.")
        object.__setattr__(self, "num_classes", int(self.num_classes))  # JSON, which keeps it, knows no NumPy.
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(f"{self.name}: train and test images must have one shape; "
                             f"got {self.train.images.shape[1:]} and {self.test.images.shape[1:]}.")
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{self.name}: class_names must hold num_classes = {self.num_classes} names; "
                             f"got {len(self.class_names)}.")
        for field in ("train", "test"):
            largest = getattr(self, field).labels.max()
            if largest >= self.num_classes:
                raise ValueError(f"{self.name}: {field} labels must be below num_classes = "
                                 f"{self.num_classes}; got {largest}.")

    def record(self):
        """What a run's folder keeps of it: a dict for JSON."""
        return {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes,
                "class_names": list(self.class_names), "train_images": len(self.train), "test_images": len(self.test)}

    @property
    def image_shape(self):
        """(h, w, c) of one image."""
        return self.train.images.shape[1:]
