"""Tiny-ImageNet: 200 classes of ImageNet at 64x64, from Stanford's course CS231n (https://cs231n.stanford.edu/).

500 training and 50 validation images per class; the unlabelled test images are left out. Rows are in the order of the
archive's listing. Grey JPEG files become three equal channels. Classes are numbered by their sorted WordNet ids, as by
tools that number a folder's subfolders, and named by `words.txt`; where two would get one name, the id is added.
"""
import collections
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from morel_jax.data.archives import Archive, Content, Reader

_TRAIN = re.compile(r"tiny-imagenet-200/train/(n\d+)/images/[^/]+\.JPEG")
_VALIDATION = re.compile(r"tiny-imagenet-200/val/images/([^/]+\.JPEG)")


def _read(paths: Sequence[Path]) -> Content:
    with zipfile.ZipFile(paths[0]) as archive:
        listed, words, annotations = (archive.read(f"tiny-imagenet-200/{file}").decode()
                                     for file in ("wnids.txt", "words.txt", "val/val_annotations.txt"))
        files = archive.namelist()
    wnids = sorted(listed.split())
    annotated = dict(line.split("\t")[:2] for line in annotations.splitlines())
    train = {file: match[1] for file in files if (match := _TRAIN.fullmatch(file))}
    test = {file: annotated[match[1]] for file in files if (match := _VALIDATION.fullmatch(file))}
    label = {wnid: number for number, wnid in enumerate(wnids)}
    return class_names(wnids, words), {
        split: (_images(paths[0], rows), np.array([label[wnid] for wnid in rows.values()]))
        for split, rows in (("train", train), ("test", test))}


def _images(path: Path, files: Iterable[str]) -> Iterator[np.ndarray]:
    import PIL.Image  # Of this data set's readers alone.

    with zipfile.ZipFile(path) as archive:
        for file in files:
            with archive.open(file) as content, PIL.Image.open(content) as image:
                yield np.asarray(image.convert("RGB"))


def class_names(wnids: Sequence[str], words: str) -> list[str]:
    """Names, all different, for WordNet ids such as "n01443537"; ``words`` is text of lines "wnid<TAB>name"."""
    table = dict(line.split("\t", 1) for line in words.splitlines() if line)
    names = [table.get(wnid, wnid).strip() for wnid in wnids]
    times = collections.Counter(names)
    return [name if times[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]


READERS = (Reader("tiny_imagenet", (Archive(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"),), (64, 64, 3), 100_000, 10_000, 200, _read,
    test_split="validation"),)
