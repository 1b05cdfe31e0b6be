import io
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.features import image_feature

from morel_jax import data
from morel_jax.data import prepared

F = tfds.features
LABEL = F.ClassLabel(names=["circle", "square", "star"])
IMAGE = F.Image(shape=(8, 8, 3))
USUAL = {"image": IMAGE, "label": LABEL}


def png(image):
    """Encodes uint8[h, w] or uint8[h, w, 3] without loss."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def prepare(data_dir, features=USUAL, splits=("train", "test"), rows=9, supervised=None, example=None):
    """Has TFDS prepare a data set `shapes` in ArrayRecord form; returns its images and labels by split, in the
    order they were made (TFDS shuffles them)."""
    rng = np.random.default_rng(0)
    made = {split: (rng.integers(0, 256, (rows, 8, 8, 3), np.uint8), rng.integers(0, 3, rows)) for split in splits}
    example = example or (lambda i, image, label: {"image": png(image), "label": label})

    class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "shapes"
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features), supervised_keys=supervised)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(*rows) for split, rows in made.items()}

        def _generate_examples(self, images, labels):
            for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                yield i, example(i, image, label)

    tfds.disable_progress_bar()
    Shapes(data_dir=data_dir).download_and_prepare(file_format="array_record")
    return made


def load(tmp_path, **options):
    return data.load("shapes", data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache", **options)


def rows_of(split):
    return sorted((image.tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True))


def same_rows(split, made):
    return rows_of(split) == sorted((image.tobytes(), int(label)) for image, label in zip(*made, strict=True))


def test_is_read_as_it_is(tmp_path):
    made = prepare(tmp_path / "tfds")
    dataset = load(tmp_path)
    assert same_rows(dataset.train, made["train"])
    assert same_rows(dataset.test, made["test"])
    assert dataset.class_names == ("circle", "square", "star")
    assert dataset.train.images.dtype == np.uint8
    assert isinstance(dataset.train.images, np.memmap)
    source = tfds.builder_from_directory(tmp_path / "tfds" / "shapes" / "1.2.0").as_data_source("train")
    np.testing.assert_array_equal(dataset.train.images, [example["image"] for example in source])
    np.testing.assert_array_equal(dataset.train.labels, [example["label"] for example in source])


def test_pixels_do_not_depend_on_whether_opencv_is_installed(tmp_path, monkeypatch):
    made, installed = prepare(tmp_path / "tfds"), object()  # Which could decode nothing.
    monkeypatch.setattr(image_feature, "cv2", installed)
    assert same_rows(load(tmp_path).train, made["train"])
    assert image_feature.cv2 is installed


def test_blank_is_described_by_the_metadata(tmp_path):
    prepare(tmp_path / "tfds", splits=("train", "test", "extra"), rows=9)
    blank, loaded = data.blank("shapes", data_dir=tmp_path / "tfds"), load(tmp_path)
    assert (blank.image_shape, blank.num_classes) == (loaded.image_shape, loaded.num_classes) == ((8, 8, 3), 3)
    assert (len(blank.train), len(blank.test)) == (len(loaded.train), len(loaded.test)) == (9, 9)
    assert not blank.train.images.any()


def test_blank_needs_a_shape_in_the_metadata(tmp_path):
    prepare(tmp_path / "tfds", features={"image": F.Image(shape=(None, None, 3)), "label": LABEL})
    with pytest.raises(ValueError, match=r"must give the images' shape; it is \(None, None, 3\) there"):
        data.blank("shapes", data_dir=tmp_path / "tfds")


def test_is_decoded_again_when_its_files_change(tmp_path):
    prepare(tmp_path / "tfds")
    assert len(load(tmp_path).train) == 9
    shutil.rmtree(tmp_path / "tfds")
    made = prepare(tmp_path / "tfds", rows=5)
    assert same_rows(load(tmp_path).train, made["train"])


def test_text_ids_give_the_order(tmp_path):
    made = prepare(tmp_path / "tfds", {**USUAL, "id": F.Text()}, example=lambda i, image, label: {
        "image": png(image), "label": label, "id": f"row_{i:05d}"})
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.train.images, made["train"][0])
    np.testing.assert_array_equal(dataset.train.labels, made["train"][1])
    np.testing.assert_array_equal(dataset.test.images, made["test"][0])


def test_features_of_other_names(tmp_path):
    made = prepare(tmp_path / "tfds", {"picture": IMAGE, "shape": LABEL, "note": F.Text()}, example=lambda i, x, y: {
        "picture": png(x), "shape": y, "note": "no"})
    assert same_rows(load(tmp_path).train, made["train"])


def test_supervised_keys_decide_between_features(tmp_path):
    made = prepare(tmp_path / "tfds", {"a": IMAGE, "b": IMAGE, "label": LABEL}, supervised=("b", "label"),
                   example=lambda i, x, y: {"a": png(255 - x), "b": png(x), "label": y})
    assert same_rows(load(tmp_path).train, made["train"])


def test_ambiguous_features(tmp_path):
    prepare(tmp_path / "tfds", {"a": IMAGE, "b": IMAGE, "label": LABEL}, example=lambda i, x, y: {
        "a": png(x), "b": png(x), "label": y})
    with pytest.raises(ValueError, match=r"must have one Image feature, one named 'image'.*'a': Image"):
        load(tmp_path)


def test_no_label_feature(tmp_path):
    prepare(tmp_path / "tfds", {"image": IMAGE, "number": F.Scalar(np.int64)}, example=lambda i, x, y: {
        "image": png(x), "number": y})
    with pytest.raises(ValueError, match="must have one ClassLabel feature"):
        load(tmp_path)


def test_validation_serves_as_test(tmp_path):
    made = prepare(tmp_path / "tfds", splits=("train", "validation", "extra"))
    assert same_rows(load(tmp_path).test, made["validation"])
    assert same_rows(load(tmp_path, test_split="extra").test, made["extra"])
    assert same_rows(load(tmp_path).test, made["validation"])


def test_missing_splits(tmp_path):
    prepare(tmp_path / "tfds", splits=("train", "extra"))
    with pytest.raises(ValueError, match=r"a split 'test' or 'validation' besides 'train'.*; it has .*extra"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"a split 'none' besides"):
        load(tmp_path, test_split="none")
    with pytest.raises(ValueError, match=r"a split 'train' besides 'train'"):
        load(tmp_path, test_split="train")
    shutil.rmtree(tmp_path / "tfds")
    prepare(tmp_path / "tfds", splits=("test", "extra"))
    with pytest.raises(ValueError, match=r"must have a split 'train'; it has .*extra"):
        load(tmp_path)


def test_images_of_several_shapes(tmp_path):
    prepare(tmp_path / "tfds", {"image": F.Image(shape=(None, None, 3)), "label": LABEL},
            example=lambda i, x, y: {"image": png(x[:, :8 - i % 2]), "label": y})
    with pytest.raises(ValueError, match=r"in .* split 'train', row \d+ has \(8, \d, 3\), row 0 \(8, \d, 3\)"):
        load(tmp_path)
    assert list((tmp_path / "cache" / "decoded").iterdir()) == []


def test_images_that_are_no_bytes(tmp_path):
    prepare(tmp_path / "tfds", {"image": F.Image(shape=(8, 8, 1), dtype=np.uint16), "label": LABEL},
            example=lambda i, x, y: {"image": png(x[..., 0]), "label": y})
    with pytest.raises(ValueError, match="must be uint8; got uint16"):
        load(tmp_path)


def test_unlabelled_rows(tmp_path):
    prepare(tmp_path / "tfds", example=lambda i, x, y: {"image": png(x), "label": -1})
    with pytest.raises(ValueError, match="labels must be >= 0"):
        load(tmp_path)


def test_other_file_format(tmp_path):
    prepare(tmp_path / "tfds")
    path = tmp_path / "tfds" / "shapes" / "1.2.0" / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="must be in ArrayRecord form; it is in tfrecord"):
        load(tmp_path)


def test_find(tmp_path):
    prepare(tmp_path)
    shapes = tmp_path / "shapes"
    assert prepared.find("shapes", tmp_path) == shapes / "1.2.0"
    for version in ("1.10.0", "1.9.0"):
        shutil.copytree(shapes / "1.2.0", shapes / version)
    (shapes / "9.9.9.incompleteABC").mkdir()
    assert prepared.find("shapes", tmp_path) == shapes / "1.10.0"
    assert prepared.find("shapes:1.9.0", tmp_path) == shapes / "1.9.0"
    assert prepared.find("shapes:3.0.0", tmp_path) is None
    assert prepared.find("shapes", shapes / "1.2.0") == shapes / "1.2.0"
    assert prepared.find("other", tmp_path) is None
    with pytest.raises(ValueError, match="holds the data set 'shapes'; got the name 'other'"):
        prepared.find("other", shapes / "1.2.0")


def test_find_config(tmp_path):
    prepare(tmp_path / "made")
    for config in ("red", "blue"):
        shutil.copytree(tmp_path / "made" / "shapes" / "1.2.0", tmp_path / "tfds" / "shapes" / config / "1.2.0")
        if config == "red":
            assert prepared.find("shapes", tmp_path / "tfds") == tmp_path / "tfds" / "shapes" / "red" / "1.2.0"
    with pytest.raises(ValueError, match="several configs of shapes; name one of shapes/blue, shapes/red"):
        prepared.find("shapes", tmp_path / "tfds")
    dataset = data.load("shapes/blue:1.2.0", data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache")
    assert len(dataset.train) == 9
    assert dataset.name == "shapes/blue:1.2.0"
