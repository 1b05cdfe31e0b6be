"""Small archives in the data sets' true formats, and a server to download them from."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import PIL.Image

from morel_jax.data import readers
from morel_jax.data.readers import fashion_mnist

FINE = [f"fine_{i}" for i in range(100)]
COARSE = [f"coarse_{i}" for i in range(20)]


def _tar(path, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _cifar_records(rng, rows, sizes):
    images = rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)
    labels = [rng.integers(0, size, rows, np.uint8) for size in sizes]
    planes = images.transpose(0, 3, 1, 2).reshape(rows, -1)
    content = np.concatenate([*(column[:, None] for column in labels), planes], 1)
    return content.tobytes(), images, labels[-1].astype(np.int32)


def cifar10(folder, rng, rows=7):
    """Writes cifar-10-binary.tar.gz; returns {split: (images, labels)}, `rows` a batch file."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    parts = {name: _cifar_records(rng, rows, [10]) for name in [*names, "test_batch.bin"]}
    # Out of order, as the order in a tar file is nobody's promise.
    files = {f"cifar-10-batches-bin/{name}": parts[name][0] for name in reversed(parts)}
    classes = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    _tar(folder / "cifar-10-binary.tar.gz", {**files, "cifar-10-batches-bin/batches.meta.txt": classes})
    return {"train": tuple(np.concatenate([parts[name][i] for name in names]) for i in (1, 2)),
            "test": parts["test_batch.bin"][1:]}


def cifar100(folder, rng, rows=7):
    """Writes cifar-100-binary.tar.gz; returns {split: (images, fine labels)}."""
    parts = {split: _cifar_records(rng, rows, [20, 100]) for split in ("train", "test")}
    _tar(folder / "cifar-100-binary.tar.gz", {
        **{f"cifar-100-binary/{split}.bin": part[0] for split, part in parts.items()},
        "cifar-100-binary/fine_label_names.txt": "\n".join(FINE).encode(),
        "cifar-100-binary/coarse_label_names.txt": "\n".join(COARSE).encode()})
    return {split: part[1:] for split, part in parts.items()}


def idx(array):
    """The bytes that `fashion_mnist.parse_idx` reads back as `array` (uint8, any shape)."""
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def fashion(folder, rng, per_class=3):
    """Writes Fashion-MNIST's four files; returns {split: (images, labels)}."""
    arrays = {}
    for split, archives in fashion_mnist.ARCHIVES.items():
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), per_class))
        images = rng.integers(0, 256, (len(labels), 28, 28), np.uint8)
        arrays[split] = images[..., None], labels.astype(np.int32)
        for archive, array in zip(archives, (images, labels), strict=True):
            (folder / archive.file).write_bytes(gzip.compress(idx(array), mtime=0))
    return arrays


def _jpeg(image):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def tiny_imagenet(folder, rng):
    """Writes tiny-imagenet-200.zip with 200 classes, one grey image among them.

    Returns {split: (images as Pillow decodes them, labels)} in the listing's order; train's row 0 is grey.
    """
    wnids = [f"n{i:08d}" for i in rng.choice(10**8, 200, replace=False)]
    labels = {wnid: label for label, wnid in enumerate(sorted(wnids))}
    words = "".join(f"{wnid}\t{'crane' if i < 2 else f'thing {i}, object {i}'}\n"
                    for i, wnid in enumerate(sorted(wnids)))
    rows, annotations = {"train": [], "validation": []}, []
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        for wnid in wnids:
            grey = not rows["train"]
            image = rng.integers(0, 256, (64, 64) if grey else (64, 64, 3), np.uint8)
            content = _jpeg(image)
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", content)
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt", "")
            rows["train"].append((content, labels[wnid]))
        for index in (2, 10, 1):
            wnid, content = wnids[index], _jpeg(rng.integers(0, 256, (64, 64, 3), np.uint8))
            archive.writestr(f"tiny-imagenet-200/val/images/val_{index}.JPEG", content)
            annotations.append(f"val_{index}.JPEG\t{wnid}\t0\t0\t62\t62\n")
            rows["validation"].append((content, labels[wnid]))
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", content)
        archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(wnids))
        archive.writestr("tiny-imagenet-200/words.txt", words)
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(sorted(annotations)))
    decode = lambda content: np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))  # noqa: E731
    return {split: (np.stack([decode(content) for content, _ in part]),
                    np.array([label for _, label in part], np.int32)) for split, part in rows.items()}


def trusted(archives, folder, address=None):
    """The same archives as they are in `folder`, as if those were the published ones, at another address if need be."""
    def of(archive):
        content = (folder / archive.file).read_bytes()
        sums = {"sha256": hashlib.sha256(content).hexdigest()}
        if archive.content_sha256:  # Known by its content alone.
            sums = {"content_sha256": hashlib.sha256(gzip.decompress(content)).hexdigest()}
        return dataclasses.replace(archive, url=f"{address}/{archive.file}" if address else archive.url, **sums)

    return tuple(map(of, archives))


def trust(monkeypatch, name, folder, address=None):
    """Makes the reader of a data set expect the archives in `folder`; see `trusted`."""
    reader = readers.BY_NAME[name]
    monkeypatch.setitem(readers.BY_NAME, name, dataclasses.replace(
        reader, archives=trusted(reader.archives, folder, address)))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(folder, handler=_Quiet):
    """Serves a folder on the loopback interface; yields its address without a slash at the end."""
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
