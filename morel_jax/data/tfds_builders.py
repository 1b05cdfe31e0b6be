"""TFDS builders that prepare from the archives as they are, with no TensorFlow.

TFDS's own builders of these data sets unpack archives and encode PNG with TensorFlow. These write the same
features under the same names and versions, so TFDS reads what they prepare; only the order differs, which
here is the archives' own. Importing this module imports tensorflow_datasets; `sources` does so when it has
to.
"""

import io
import tarfile
from typing import ClassVar

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from morel_jax.data import fashion_mnist


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder that is told which checksums its archives have.

    Subclasses set `URLS`, and where archives that were packed again will do, `CONTENT_SHA256`
    ({file name: hexadecimal}).
    """

    URLS = ()
    CONTENT_SHA256: ClassVar = {}

    def __init__(self, *, archive_checksums, **options):
        """Args: archive_checksums: {url: tfds UrlInfo}; options: as in TFDS."""
        self._archive_checksums = archive_checksums
        super().__init__(**options)

    @property
    def url_infos(self):
        """What TFDS holds the archives against; its own table belongs to the class, for every instance."""
        return self._archive_checksums

    @classmethod
    def checksums(cls):
        """{url: UrlInfo} of the published archives, from TFDS's official builder of that name."""
        return {url: tfds.builder_cls(cls.name).url_infos[url] for url in cls.URLS}


def png(image):
    """Encodes uint8[h, w] or uint8[h, w, 3] without loss."""
    buffer = io.BytesIO()
    # Level 1: the files are read once, so time matters more than their size.
    PIL.Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


class Cifar10(ArchiveBuilder, skip_registration=True):
    """CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html); holds no pickles.

    A record is one byte a label, then 1,024 bytes each of red, green and blue, row by row.
    """

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")
    URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
    FOLDER = "cifar-10-batches-bin"
    SPLITS: ClassVar = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    LABELS: ClassVar = {"label": (10, "batches.meta.txt")}

    def _info(self):
        labels = {key: tfds.features.ClassLabel(num_classes=n) for key, (n, _) in self.LABELS.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "id": tfds.features.Text(), "image": tfds.features.Image(shape=(32, 32, 3)), **labels}),
            supervised_keys=("image", "label"), disable_shuffling=True,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html")

    def _split_generators(self, dl_manager):
        contents = {}
        wanted = {f"{self.FOLDER}/{file}" for files in self.SPLITS.values() for file in files}
        wanted |= {f"{self.FOLDER}/{file}" for _, file in self.LABELS.values()}
        with tarfile.open(dl_manager.download(self.URLS[0]), "r:gz") as archive:
            for member in archive:
                if member.name in wanted:
                    contents[member.name.rsplit("/", 1)[-1]] = archive.extractfile(member).read()
        for key, (_, file) in self.LABELS.items():
            self.info.features[key].names = contents[file].decode().split()
        return {split: self._generate_examples(split, b"".join(contents[file] for file in files))
                for split, files in self.SPLITS.items()}

    def _generate_examples(self, split, content):
        records = np.frombuffer(content, np.uint8).reshape(-1, len(self.LABELS) + 3 * 32 * 32)
        for index, record in enumerate(records):
            labels, pixels = np.split(record, [len(self.LABELS)])
            image = np.ascontiguousarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0))
            yield index, {"id": f"{split}_{index:05d}", "image": png(image),
                          **dict(zip(self.LABELS, labels.tolist(), strict=True))}


class Cifar100(Cifar10, skip_registration=True):
    """CIFAR-100's binary version; `label` is the fine one of 100, which follows the coarse one of 20."""

    name = "cifar100"
    VERSION = tfds.core.Version("3.0.2")
    URLS = ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",)
    FOLDER = "cifar-100-binary"
    SPLITS: ClassVar = {"train": ["train.bin"], "test": ["test.bin"]}
    LABELS: ClassVar = {"coarse_label": (20, "coarse_label_names.txt"),
                        "label": (100, "fine_label_names.txt")}


class FashionMnist(ArchiveBuilder, skip_registration=True):
    """Fashion-MNIST in its four gzipped IDX files (arXiv:1708.07747)."""

    name = "fashion_mnist"
    VERSION = tfds.core.Version("3.0.1")
    URLS = tuple(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}"
                 for files in fashion_mnist.FILES.values() for file in files)
    CONTENT_SHA256 = fashion_mnist.CONTENT_SHA256

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(names=fashion_mnist.CLASS_NAMES)}),
            supervised_keys=("image", "label"), disable_shuffling=True,
            homepage="https://github.com/zalandoresearch/fashion-mnist")

    def _split_generators(self, dl_manager):
        arrays = [fashion_mnist.read_idx(path) for path in dl_manager.download(list(self.URLS))]
        return {split: self._generate_examples(*arrays[2 * i:2 * i + 2])
                for i, split in enumerate(fashion_mnist.FILES)}

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": png(image), "label": label}
