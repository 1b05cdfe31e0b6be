import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from morel_jax import data
from morel_jax.data import readers
from morel_jax.data.archives import Archive, Reader

ROOT = Path(readers.__file__).parents[3]


def test_every_module_is_found():
    assert list(readers.BY_NAME) == ["cifar10", "cifar100", "fashion_mnist", "tiny_imagenet"]
    assert data.KNOWN == ("fashion_mnist_small", *readers.BY_NAME)


@pytest.mark.parametrize("reader", readers.BY_NAME.values(), ids=list(readers.BY_NAME))
def test_declarations(reader):
    assert isinstance(reader, Reader)
    assert len(reader.image_shape) == 3
    for archive in reader.archives:
        assert isinstance(archive, Archive)
        assert len(bytes.fromhex(archive.sha256)) == 32
    with pytest.raises(dataclasses.FrozenInstanceError):
        reader.name = "other"


def linked(source, target, *real):
    """A folder of links to what another has, except for the folders on the way to `real`."""
    target.mkdir()
    for path in source.iterdir():
        if real and path.name == real[0]:
            linked(path, target / path.name, *real[1:])
        else:
            (target / path.name).symlink_to(path)


def test_a_data_set_is_added_by_one_file(tmp_path):
    """The one that the documentation shows."""
    rng = np.random.default_rng(0)
    arrays = {f"{split}_{part}": rng.integers(0, high, shape, np.uint8) for split, count in (("train", 6), ("test", 3))
              for part, high, shape in (("images", 256, (count, 32, 32, 3)), ("labels", 2, count))}
    np.savez(tmp_path / "stripes.npz", **arrays)
    page = (ROOT / "docs" / "reference" / "data.md").read_text()
    (code,) = re.findall(r"```python\n(import numpy.*?)```", page, re.DOTALL)
    linked(ROOT / "morel_jax", tmp_path / "morel_jax", "data", "readers")
    (tmp_path / "morel_jax" / "data" / "readers" / "stripes.py").write_text(
        code.replace('"..."', repr(hashlib.sha256((tmp_path / "stripes.npz").read_bytes()).hexdigest())))
    command = (
        "from morel_jax import data; import numpy as np, sys; assert data.__file__.startswith(sys.argv[1])\n"
        "found = data.load('stripes', archive_dir=sys.argv[1], cache_dir=sys.argv[1] + '/cache')\n"
        "np.savez(sys.argv[1] + '/found.npz', train_images=found.train.images, train_labels=found.train.labels,\n"
        "         test_images=found.test.images, test_labels=found.test.labels)\n"
        "print(found.class_names, data.blank('stripes').train.images.shape, 'stripes' in data.KNOWN)")
    ended = subprocess.run([sys.executable, "-c", command, str(tmp_path)], capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert ended.stdout == "('across', 'down') (8000, 32, 32, 3) True\n", ended.stderr
    with np.load(tmp_path / "found.npz") as found:
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
