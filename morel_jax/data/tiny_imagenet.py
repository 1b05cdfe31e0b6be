"""Tiny-ImageNet, which TFDS's catalogue lacks; a TFDS builder of its own.

200 classes of ImageNet at 64x64; 500 training and 50 validation images a class, and unlabelled test images,
which are left out. Source: Stanford's course CS231n. Importing this module imports tensorflow_datasets.
"""

import collections
import pathlib
import re
import zipfile

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from morel_jax.data.tfds_builders import ArchiveBuilder

_TRAIN = re.compile(r"tiny-imagenet-200/train/(n\d+)/images/[^/]+\.JPEG")
_VALIDATION = re.compile(r"tiny-imagenet-200/val/images/([^/]+\.JPEG)")


class TinyImagenet(ArchiveBuilder, skip_registration=True):
    """Tiny-ImageNet with splits `train` and `validation`, in the order of the archive's listing.

    JPEG files are stored as they are; grey ones decode to three equal channels. Classes are numbered by their
    sorted WordNet ids, as by tools that number a folder's subfolders, and named by `words.txt`; where two
    would get one name, the id is added.
    """

    name = "tiny_imagenet"
    VERSION = tfds.core.Version("1.0.0")
    URLS = ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",)

    @classmethod
    def checksums(cls):
        """{url: UrlInfo} of `tiny_imagenet.tsv`."""
        return checksums.load_url_infos(pathlib.Path(__file__).with_suffix(".tsv"))

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=200)}),
            supervised_keys=("image", "label"), disable_shuffling=True,
            homepage="https://cs231n.stanford.edu/")

    def _split_generators(self, dl_manager):
        path = dl_manager.download(self.URLS[0])
        with zipfile.ZipFile(path) as archive:
            text = {file: archive.read(f"tiny-imagenet-200/{file}").decode()
                    for file in ("wnids.txt", "words.txt", "val/val_annotations.txt")}
            files = archive.namelist()
        wnids = sorted(text["wnids.txt"].split())
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        self.info.features["label"].names = class_names(wnids, text["words.txt"])
        annotations = dict(line.split("\t")[:2] for line in text["val/val_annotations.txt"].splitlines())
        train = [(file, labels[match[1]]) for file in files if (match := _TRAIN.fullmatch(file))]
        validation = [(file, labels[annotations[match[1]]]) for file in files
                      if (match := _VALIDATION.fullmatch(file))]
        return {"train": self._generate_examples(path, train),
                "validation": self._generate_examples(path, validation)}

    def _generate_examples(self, path, rows):
        with zipfile.ZipFile(path) as archive:
            for index, (file, label) in enumerate(rows):
                yield index, {"image": archive.read(file), "label": label}


def class_names(wnids, words):
    """Names for WordNet ids.

    Args:
        wnids: WordNet ids, such as "n01443537".
        words: text of lines "wnid<TAB>name".

    Returns:
        list of str, one an id, all different.
    """
    table = dict(line.split("\t", 1) for line in words.splitlines() if line)
    names = [table.get(wnid, wnid).strip() for wnid in wnids]
    times = collections.Counter(names)
    return [name if times[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]
