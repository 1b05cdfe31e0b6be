"""Any image-label data set that TFDS has prepared on disk in ArrayRecord form."""
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from morel_jax.data import cache
from morel_jax.files import local_path, read_json, reading

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_MOST_PIXELS = 2**22  # Of one image; a few bytes can claim a hundred times more, and Pillow would allocate it.
_CHUNK = 512  # Examples decoded at a time; ArrayRecord reads a list of rows faster than one by one.


def _is_version_folder(folder: Path) -> bool:
    return (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file()


def _versions(folder: Path) -> dict[tuple[int, ...], Path]:
    """{(major, minor, patch): folder} of the data sets prepared directly in a folder."""
    return {tuple(map(int, match.groups())): path for path in folder.glob("*")
            if (match := _VERSION.fullmatch(path.name)) and _is_version_folder(path)}


def find(name: str, data_dir: str | os.PathLike) -> Path | None:
    """Finds the folder in which TFDS prepared a data set, or None.

    Args:
        name: as in TFDS: "svhn_cropped", "mnist_corrupted/shot_noise", or with ":1.0.0" for one version; by default
            the newest.
        data_dir: folder that holds `name/[config/]version`, or is such a version's folder itself.

    Raises:
        ValueError: `data_dir` is a version's folder of another data set, or holds several configs and none is named.
    """
    folder = local_path(data_dir, "data_dir").resolve()
    name, _, version = name.partition(":")
    if _is_version_folder(folder):
        remedy = "Have TFDS prepare the data set again."
        found = read_json(folder / "dataset_info.json", remedy, {"name": str})["name"]
        if found != name.partition("/")[0]:
            raise ValueError(f"data_dir {folder} holds the data set {found!r}; got the name {name!r}.")
        return folder
    candidates = _versions(folder / name)
    if not candidates:
        configs = {path.name: versions for path in sorted((folder / name).glob("*")) if (versions := _versions(path))}
        if len(configs) > 1:
            raise ValueError(f"data_dir {folder} holds several configs of {name}; name one of "
                             f"{', '.join(f'{name}/{config}' for config in configs)}.")
        candidates = next(iter(configs.values()), {})
    candidates = {number: path for number, path in candidates.items() if version in ("", path.name)}
    return candidates[max(candidates)] if candidates else None


def fingerprint(folder: Path) -> list:
    """A JSON value that changes when the prepared files do: their folder, names, sizes and times."""
    return [str(folder), [[path.name, path.stat().st_size, path.stat().st_mtime_ns]
                          for path in sorted(folder.iterdir()) if path.is_file()]]


def decode(folder: Path, output: Path, test_split: str | None = None) -> list[str]:
    """Decodes the train and test split of a prepared data set into .npy files; returns the classes' names.

    Rows are in stored order, or ordered by the feature `id` where the data set has one of text. CIFAR's restores the
    archive's order, which TFDS's official builder shuffled.

    Args:
        folder: what `find` returned.
        output: folder for `train_images.npy`, `train_labels.npy`, `test_images.npy`, `test_labels.npy`.
        test_split: name of the split to evaluate on; by default `test`, or else `validation`.

    Raises:
        ValueError: it is not in ArrayRecord form, has no single image and label feature, images that are not uint8 or
            of several shapes, or lacks a split. The message names what there is.
    """
    import absl.logging
    import PIL.Image
    from tensorflow_datasets.core.features import image_feature

    # TFDS decodes with OpenCV where it is installed, and else recommends it at the first image. Pillow, which we depend
    # on, is fast enough to be used once; the pixels are then the same either way, and the limit holds.
    verbosity, most, opencv = absl.logging.get_verbosity(), PIL.Image.MAX_IMAGE_PIXELS, image_feature.cv2
    absl.logging.set_verbosity(absl.logging.ERROR)
    PIL.Image.MAX_IMAGE_PIXELS, image_feature.cv2 = _MOST_PIXELS, None
    try:
        with reading(folder, "holds no data set that can be read"):
            builder, image_key, label_key, splits = _open(folder, test_split)
            formats = sorted(form.value for form in builder.info.available_file_formats())
            if "array_record" not in formats:
                raise ValueError(f"The data set in {folder} must be in ArrayRecord form; it is in "
                                 f"{', '.join(formats)}. Prepare it elsewhere with "
                                 "download_and_prepare(file_format='array_record').")
            for purpose, split in splits.items():
                source = builder.as_data_source(split=split, file_format="array_record")
                _decode_split(source, image_key, label_key, f"{folder} split {split!r}", output, purpose)
            return builder.info.features[label_key].names
    finally:
        absl.logging.set_verbosity(verbosity)
        PIL.Image.MAX_IMAGE_PIXELS, image_feature.cv2 = most, opencv


def sizes(folder: Path, test_split: str | None = None) -> tuple[int, int, tuple[int, int, int], int]:
    """(training images, test images, (h, w, c), classes) from a prepared data set's metadata; arguments as in `decode`.

    Raises:
        ValueError: as `decode` for features and splits; or the metadata do not give the images' shape.
    """
    with reading(folder, "holds no data set that can be read"):
        builder, image_key, label_key, splits = _open(folder, test_split)
    info = builder.info
    shape = info.features[image_key].shape
    if None in shape:
        raise ValueError(f"The metadata in {folder} must give the images' shape; it is {shape} there.")
    return (*(info.splits[splits[purpose]].num_examples for purpose in ("train", "test")), tuple(shape),
            info.features[label_key].num_classes)


def _open(folder: Path, test_split: str | None) -> tuple[Any, str, str, dict[str, str]]:
    """(TFDS's builder, image key, label key, {"train": split, "test": split}), after checking the metadata."""
    import tensorflow_datasets as tfds  # Takes a second, and a start from the cache does not need it.

    builder = tfds.builder_from_directory(folder)
    info, F = builder.info, tfds.features
    features = dict(info.features.items()) if isinstance(info.features, F.FeaturesDict) else {}
    supervised = info.supervised_keys or ()

    def key_of(kind: type, usual: str, place: int) -> str:
        keys = [key for key, feature in features.items()
                if isinstance(feature, kind) and getattr(feature, "num_classes", True)]
        if len(supervised) == 2 and supervised[place] in keys:
            return supervised[place]
        if usual not in keys and len(keys) != 1:
            raise ValueError(f"The data set in {folder} must have one {kind.__name__} feature, one named {usual!r}, or "
                             f"supervised keys that name one; it has the features {features or info.features}.")
        return usual if usual in keys else keys[0]

    image_key = key_of(F.Image, "image", 0)
    if features[image_key].np_dtype != np.uint8:
        raise ValueError(f"The images in {folder} must be uint8; got {np.dtype(features[image_key].np_dtype)}.")
    label_key = key_of(F.ClassLabel, "label", 1)
    # Checked before any memory is allocated: the metadata may claim no more than the folder can hold.
    size = sum(path.stat().st_size for path in folder.iterdir())
    claims = {f"images in the split {name!r}": split.num_examples for name, split in info.splits.items()}
    for name, number in (claims | {"classes": features[label_key].num_classes}).items():
        if not 0 <= number <= size:
            raise ValueError(f"The metadata in {folder} claim {number} {name}; the folder has {size} bytes.")
    return builder, image_key, label_key, _splits(folder, info.splits, test_split)


def _splits(folder: Path, available: Mapping[str, Any], test_split: str | None) -> dict[str, str]:
    """{"train": split, "test": split} out of the available names."""
    names = ", ".join(available) or "none"
    if "train" not in available:
        raise ValueError(f"The data set in {folder} must have a split 'train'; it has {names}.")
    wanted = (test_split,) if test_split else ("test", "validation")
    for split in wanted:
        if split in available and split != "train":
            return {"train": "train", "test": split}
    raise ValueError(f"The data set in {folder} must have a split {' or '.join(map(repr, wanted))} besides "
                     f"'train' to judge on; it has {names}. Name one of them with test_split.")


def _decode_split(source: Any, image_key: str, label_key: str, where: str, output: Path, purpose: str) -> None:
    found: list[int] = []
    ids: list[bytes] = []

    def images() -> Iterator[np.ndarray]:
        for start in range(0, len(source), _CHUNK):
            for example in source.__getitems__(list(range(start, min(start + _CHUNK, len(source))))):
                found.append(example[label_key])
                if isinstance(example.get("id"), bytes):
                    ids.append(example["id"])
                yield example[image_key]

    array = cache.write_images(output / f"{purpose}_images.npy", images(), len(source), where)
    labels = np.array(found, np.int32)
    order = np.argsort(np.array(ids), kind="stable") if len(ids) == len(labels) else np.arange(len(labels))
    if np.any(np.diff(order) != 1):
        array[...], labels = array[order], labels[order]
        array.flush()
    np.save(output / f"{purpose}_labels.npy", labels)
