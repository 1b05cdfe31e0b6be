"""Files that lie, are cut or were made to harm, for every reader of files in the package; made small, where asked for.

``FILES`` is a list of `File`; :func:`refuse` tries one and returns what was said of it.
"""
import contextlib
import functools
import gzip
import io
import json
import logging
import lzma
import os
import pickle
import resource
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from morel_jax import data, files, manifest
from morel_jax.data import Split, archives, cache, embedded, prepared
from morel_jax.data.corruptions import load_corruption
from morel_jax.data.extra import load_extra
from morel_jax.data.readers import fashion_mnist
from morel_jax.interop.layouts import layout
from morel_jax.interop.torch import load_checkpoint

SECONDS = 5.0  # Of processor time.
MEMORY = 2**30  # Bytes of address space that a reader may take beyond what the process has.
_LIKE = Split(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32))
_HUGE = 4_000_000_000


class File(NamedTuple):
    """Attributes:
        name: unlike the others'.
        make: folder -> path of a new file or folder in it.
        load: what reads such a file; must raise.
        says: part of the line that names the fault.
    """
    name: str
    make: Callable
    load: Callable
    says: str


@contextlib.contextmanager
def little_memory():
    """Lets the process take no more than `MEMORY` bytes of address space beyond what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refuse(file, folder):
    """Makes and reads a file; returns (message, seconds). Raises AssertionError if it was not refused in one line."""
    path = file.make(Path(folder))
    start = time.process_time()  # Of this process alone: other work on the machine is no fault of the reader's.
    try:
        with little_memory():
            file.load(path)
    except (ValueError, OSError) as error:
        message, seconds = str(error), time.process_time() - start
    else:
        raise AssertionError(f"{file.name} was read.")
    assert file.says in message, message
    assert str(path) in message, message
    assert "\n" not in message, message
    assert len(message) < 1000, message
    assert seconds < SECONDS, seconds
    return message, seconds


def _written(name, content):
    def make(folder):
        (folder / name).write_bytes(content() if callable(content) else content)
        return folder / name
    return make


def _zip(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _lying(content, entry, size):
    """A zip archive whose directory and local header give another size of one entry, packed and unpacked."""
    content, name = bytearray(content), entry.encode()
    for magic, sizes, fixed in ((b"PK\1\2", 20, 46), (b"PK\3\4", 18, 30)):
        start = content.index(magic)
        while content[start + fixed:start + fixed + len(name)] != name:
            start = content.index(magic, start + 1)
        content[start + sizes:start + sizes + 8] = struct.pack("<II", size, size)
    return bytes(content)


# PyTorch's files. A value's opcodes, without the first that names the protocol and the last that ends the file.
def _opcodes(value):
    return pickle.dumps(value, 2)[2:-1]


def _name(full):
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def _call(function, *arguments):
    return _name(function) + b"(" + b"".join(arguments) + b"tR"


def _tensor(shape, key="0", kind="Float", count=None, strides=None, offset=0, function="_rebuild_tensor_v2"):
    strides = [int(np.prod(shape[i + 1:])) for i in range(len(shape))] if strides is None else strides
    storage = b"(" + _opcodes("storage") + _name(f"torch.{kind}Storage") + b"".join(
        map(_opcodes, (key, "cpu", int(np.prod(shape)) if count is None else count))) + b"tQ"
    return _call(f"torch._utils.{function}", storage, *map(_opcodes, (offset, tuple(shape), tuple(strides), False)),
                 _call("collections.OrderedDict"))


def _dict(entries):
    """Of names and opcodes."""
    return b"}(" + b"".join(_opcodes(key) + value for key, value in entries.items()) + b"u"


def _pt(opcodes, storages=None, **options):
    entries = {"archive/data.pkl": b"\x80\2" + opcodes + b".", "archive/version": b"3\n"}
    return _zip(entries | {f"archive/data/{key}": value for key, value in (storages or {}).items()}, **options)


def _legacy(opcodes, keys, storages):
    pickles = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*pickles, b"\x80\2" + opcodes + b".", pickle.dumps(keys, 2), storages])


def _nested_tuples(depth):
    """Opcodes of a tuple that holds one tuple twice, which holds another twice, and so on."""
    return b")q\0" + b"0h\0h\0\x86q\0" * depth


@functools.cache
def _network():
    """A state dict of ``convnet_small``, all ones."""
    shapes = {"conv1.weight": (2, 3, 4, 4), "hidden.weight": (128, 4), "linear.weight": (10, 128)}
    return {name: np.ones(place.shape, np.float32) for name, place in layout("convnet_small", shapes).items()}


def _network_file(**changes):
    return lambda: save(_network() | {name.replace("__", "."): value for name, value in changes.items()})


def _safetensors(header, body=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + body


def _entry(dtype, shape, end, start=0):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _weights(name, suffix, content, says):
    return File(f"{name}{suffix}", _written(f"weights{suffix}", content), load_checkpoint, says)


_MANY = {f"block1.layer.{number}.conv1.weight": _tensor((1,)) for number in range(2000)}
_NO_TENSORS = "cannot be read as tensors and plain values"
_PYTORCH = [_weights(name, ".pt", content, says) for name, content, says in (
    ("holds itself", _pt(b"}q\7" + _opcodes("state_dict") + b"h\7s"), "holds itself"),
    ("holds itself further in", _pt(b"}q\7" + _opcodes("model") + b"}" + _opcodes("net") + b"h\7ss"), "holds itself"),
    ("key that hashes for ever", _pt(b"}" + _nested_tuples(100) + b"Ns"), "a dict with a key of type tuple"),
    ("set that hashes for ever", _pt(_call("collections.OrderedDict", b"](](" + _nested_tuples(100) + b"Nee")),
     "a dict with a key of type tuple"),
    ("runs a command", _pt(_call("os.system", _opcodes("touch hostile"))), "Unsupported global: 'os.system'"),
    ("makes an object", _pt(_name("torch.Tensor") + b")\x81"), "an object that is no tensor"),
    ("calls a value", _pt(_opcodes(7) + b")R"), "a call of something that is no function"),
    ("changes a function", _pt(_name("collections.OrderedDict") + b"}b."), "there is a _Global"),
    ("bytes by a count", _pt(b"\x96" + struct.pack("<Q", _HUGE)), "an object that is no tensor"),
    ("memo by a number", _pt(b"}r\xff\xff\xff\xff0j\xff\xff\xff\x7f"), _NO_TENSORS),
    ("nested deeply", _pt(b"]" * 100_000 + b"a" * 99_999), "there is a list"),
    ("long name", _pt(_dict({"module." * 60_000: _tensor((1,))}), {"0": bytes(4)}), "a tensor's name must be"),
    ("name of lines", _pt(_dict({"a\nb": b"N"})), "no state dict is under"),
    ("number for a name", _pt(b"}K\1" + _tensor((1,)) + b"s", {"0": bytes(4)}), "a tensor's name must be"),
    ("sparse", _pt(_dict({"a": _call("torch._utils._rebuild_sparse_tensor", b"N", b")")})), "one that is sparse"),
    ("meta", _pt(_dict({"a": _call("torch._utils._rebuild_meta_tensor_no_storage", b"N")})), "one that is meta"),
    ("quantised", _pt(_dict({"a": _call("torch._utils._rebuild_qtensor", b"N")})), "one that is quantised"),
    ("float8", _pt(_dict({"a": _call("torch._utils._rebuild_tensor_v3", b"N")})), "one that is of a type like float8"),
    ("unknown type", _pt(_dict({"a": _tensor((1,), kind="QInt8")}), {"0": b"1"}), "of type 'QInt8' cannot be read"),
    ("claims 730 GiB", _pt(_dict({"a": _tensor((196_000_000_000,))}), {"0": bytes(4)}), "has 1 stored elements"),
    ("one element for all", _pt(_dict({"a": _tensor((_HUGE,), strides=(0,))}), {"0": bytes(4)}), "1 stored elements"),
    ("negative stride", _pt(_dict({"a": _tensor((2,), strides=(-1,))}), {"0": bytes(8)}), "sizes are no sizes"),
    ("beyond its storage", _pt(_dict({"a": _tensor((2,), offset=1)}), {"0": bytes(8)}), "has 2 stored elements"),
    ("many names for one storage", _pt(_dict({str(number): _tensor((9999,)) for number in range(99)}),
                                       {"0": bytes(4 * 9999)}), "more than 4 times the file's own size"),
    ("many parts of one large storage", lambda: _pt(_dict({str(number): _tensor((1,), offset=number)
                                                           for number in range(3000)}), {"0": bytes(2**24)}),
     "cannot be told from the tensors"),
    ("many tensors", lambda: _pt(_dict({str(number): _tensor((1,)) for number in range(5001)}), {"0": bytes(2**18)}),
     "must have at most 5000 tensors"),
    ("many prefixes", lambda: _pt(_dict({"1." * 60 + str(number): _tensor((1,)) for number in range(5000)}),
                                  {"0": bytes(4)}), "cannot be told from the tensors"),
    ("no storage", _pt(_dict({"a": _tensor((1,), key="7")})), "KeyError 'data/7'"),
    ("storage outside", _pt(_dict({"a": _tensor((1,), key="../../../etc/passwd")})), "KeyError"),
    ("half an element", _pt(_dict({"a": _tensor((1,))}), {"0": bytes(3)}), "buffer size must be a multiple"),
    ("compressed", _pt(_dict({"a": _tensor((2**24,))}), {"0": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED),
     "is compressed or claims"),
    ("entry claims 4 GB", _lying(_pt(_dict({"a": _tensor((1,))}), {"0": bytes(4)}), "archive/data/0", _HUGE),
     "claims 4000000000 of the file's"),
    ("long pickle", lambda: _pt(b"N0" * 5_000_000 + b"N"), "it must hold data.pkl, of at most"),
    ("no pickle", _zip({"archive/version": b"3"}), "it must hold data.pkl"),
    ("cut", lambda: _pt(_dict({"a": _tensor((999,))}), {"0": bytes(4 * 999)})[:-300], _NO_TENSORS),
    ("bad checksum", lambda: _pt(_dict({"a": _tensor((9,))}), {"0": b"\x91" * 36}).replace(
        b"\x91" * 36, b"\x91" * 35 + b"\x92"), "Bad CRC-32"),
    ("empty", b"", _NO_TENSORS),
    ("text", b"hello", _NO_TENSORS),
    ("of numpy", pickle.dumps({"a": np.zeros(3)}), "Unsupported global: 'numpy"),
    ("old and claiming", _legacy(_dict({"a": _tensor((_HUGE,))}), ["0"], struct.pack("<q", _HUGE)),
     "has 0 stored elements"),
    ("old and cut", _legacy(_dict({"a": _tensor((2,))}), ["0"], struct.pack("<q", 2) + bytes(7)),
     "buffer size must be a multiple"),
    ("old with a number for keys", _legacy(_dict({"a": _tensor((2,))}), 5, b""), _NO_TENSORS),
    ("thousands of blocks", _pt(_dict(_MANY | {"fc.weight": _tensor((10, 64), key="1")}),
                                {"0": bytes(4), "1": bytes(2560)}), "2000 blocks in block1 need at least"),
)]

_HEADER = b"\x93NUMPY\1\0v\0"


def _pipe(folder):
    os.mkfifo(folder / "weights.pt")
    return folder / "weights.pt"


def _holes(suffix, beginning):
    def make(folder):
        path = folder / f"weights{suffix}"
        path.write_bytes(beginning)
        os.truncate(path, 800 * 2**30)
        return path
    return make


_GIBIBYTES = 800 * 2**30
_SPARSE = _safetensors({"a": _entry("F32", [_GIBIBYTES // 4 - 32], _GIBIBYTES - 128)})
_ODD_FILES = [
    File("pipe.pt", _pipe, load_checkpoint, "no file"),
    File("folder.pt", lambda folder: (folder / "weights.pt").mkdir() or folder / "weights.pt", load_checkpoint,
         "Is a directory"),
    File("nothing.pt", lambda folder: folder / "weights.pt", load_checkpoint, "no file"),
    File("800 GiB of holes.pt", _holes(".pt", b"\x80\2"), load_checkpoint, "of memory"),
    File("800 GiB of holes.safetensors", _holes(".safetensors", _SPARSE), load_checkpoint, "of memory"),
]
_SAFETENSORS = [_weights(name, ".safetensors", content, says) for name, content, says in (
    ("float8", _safetensors({"a": _entry("F8_E4M3", [2], 2)}, b"12"), "is not a whole safetensors file"),
    ("claims 730 GiB", _safetensors({"a": _entry("F32", [196_000_000_000], 784_000_000_000)}),
     "is not a whole safetensors file"),
    ("header claims everything", struct.pack("<Q", 2**63), "header too large"),
    ("overlapping", _safetensors({"a": _entry("F32", [1], 4), "b": _entry("F32", [1], 4)}, bytes(4)), "invalid offset"),
    ("nested deeply", _safetensors(b"[" * 1_000_000), "invalid JSON in header"),
    ("many axes", _safetensors({"a": _entry("F32", [1] * 100, 4)}, bytes(4)), "maximum supported dimension"),
    ("nothing by a million million", _safetensors({"fc.weight": _entry("F32", [0, 10**12], 0)}),
     "cannot be told from the tensors"),
    ("cut", lambda: save(_network())[:-3], "is not a whole safetensors file"),
    ("empty", b"", "is not a whole safetensors file"),
    ("NaN", _network_file(bn1__weight=np.full(2, np.nan, np.float32)), "'bn1.weight' must be finite"),
    ("too large for float32", _network_file(bn1__bias=np.full(2, 1e300)), "'bn1.bias' must be finite"),
    ("complex", _network_file(bn1__weight=np.ones(2, np.complex64)), "real floating type; got complex64"),
    ("integers", _network_file(bn1__weight=np.ones(2, np.int8)), "real floating type; got int8"),
    ("NaN mean", _network_file(mu=np.full(3, np.nan, np.float32), sigma=np.ones(3, np.float32)), "mean must be in"),
    ("mean of 255", _network_file(mu=np.full(3, 125.3, np.float32), sigma=np.ones(3, np.float32)),
     "divide numbers for 0 .. 255 by 255"),
    ("two means", _network_file(mu=np.zeros(2, np.float32), sigma=np.ones(2, np.float32)), "each of the 3 channels"),
    ("complex mean", _network_file(mu=np.zeros(3, np.complex64), sigma=np.ones(3, np.float32)), "got complex64"),
    ("no shape", _network_file(conv1__weight=np.array(1, np.float32)), "must have shape"),
)]


# Extra images.
def _npy(shape, dtype="|u1", body=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + body


def _npz(image=None, label=None, **options):
    return _zip({"image.npy": _npy((3, 8, 8, 3), body=bytes(576)) if image is None else image,
                 "label.npy": _npy((3,), "<i8", bytes(24)) if label is None else label}, **options)


_NPZ = [File(f"{name}.npz", _written("extra.npz", content), lambda path: load_extra(path, _LIKE, 4), says)
        for name, content, says in (
    ("cut", _npz()[:-30], "is not a whole .npz file"),
    ("bad checksum", _npz().replace(bytes(24), bytes(23) + b"\1"), "Bad CRC-32"),
    ("npy", _npy((3, 8, 8, 3), body=bytes(576)), "is not a whole .npz file"),
    ("text", b"hello", "is not a whole .npz file"),
    ("claims 730 GiB", _npz(_npy((_HUGE, 8, 8, 3))), "claims 768000000128 bytes"),
    ("labels claim 30 GB", _npz(label=_npy((_HUGE,), "<i8")), "claims 32000000128 bytes"),
    ("bomb", lambda: _npz(_npy((400_000, 8, 8, 3), body=bytes(192 * 400_000)), compression=zipfile.ZIP_DEFLATED),
     "claims 76800128 bytes"),
    ("objects", _npz(_npy((1, 8, 8, 3), "|O", pickle.dumps({}))), "is not a whole .npz file"),
    ("negative", _npz(_npy((-3, 8, 8, 3))), "is not a whole .npz file"),
    ("header of brackets", _npz(_HEADER + b"(" * 118), "is not a whole .npz file"),
    ("header claims 4 GB", _npz(b"\x93NUMPY\3\0\xff\xff\xff\xff"), "is not a whole .npz file"),
    ("entry claims 4 GB", _lying(_npz(_npy((20_833_332, 8, 8, 3))), "image.npy", 3_999_999_872), "claims"),
    ("no arrays", _zip({"image": b"x", "label": b"y"}), "is not a whole .npz file"),
    ("odd compression", _npz(compression=zipfile.ZIP_LZMA), "compressed in a way"),
    ("outside", _zip({"../../image.npy": b"", "../label.npy": b""}), "must hold arrays image and label"),
    ("encrypted", _npz().replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"), "encrypted"),
)]

_CORRUPTED = [File(f"{name}.npy", _written("fog.npy", content), lambda path: load_corruption(path.parent, "fog", 3),
                   "is not a whole .npy file") for name, content in (
    ("corrupted images: cut", _npy((3, 8, 8, 3), body=bytes(500))),
    ("corrupted images: text", b"hello"),
    ("corrupted images: claim 730 GiB", _npy((_HUGE, 8, 8, 3))),
    ("corrupted images: objects", _npy((3, 8, 8, 3), "|O", pickle.dumps({}))),
    ("corrupted images: negative", _npy((-3, 8, 8, 3))),
    ("corrupted images: an .npz file", _npz()),
)]

# Archives, gzip and IDX files, the embedded images.
_IDX = b"\0\0\x08"
_GZIP = [File(f"{name}.gz", _written("train-images-idx3-ubyte.gz", content), fashion_mnist.read_idx, says)
         for name, content, says in (
    ("cut", gzip.compress(_IDX + b"\1\0\0\0\2ab")[:-9], "is not a whole gzip file"),
    ("bad checksum", gzip.compress(_IDX + b"\1\0\0\0\2ab")[:-8] + bytes(8), "is not a whole gzip file"),
    ("text", b"hello", "is not a whole gzip file"),
    ("bomb", lambda: gzip.compress(bytes(2**27), 1), "holds more than"),
    ("claims an exabyte", gzip.compress(_IDX + b"\3" + b"\x00\x10\0\0" * 3), "must end at byte"),
    ("floats", gzip.compress(b"\0\0\x0d\1\0\0\0\0"), "must start with 00 00 08"),
    ("255 axes", gzip.compress(_IDX + b"\xff" + b"\xff" * 1020), "The IDX array of shape"),
    ("zlib", zlib.compress(b"hello"), "is not a whole gzip file"),
)]


def _load_archive(path):
    data.load("cifar10", archive_dir=path.parent, cache_dir=path.parent / "cache")


def _check_gzip(path):
    archives.check(path, archives.Archive("", "0" * 64, "0" * 64))


def _unpack(path):
    with files.reading(path, "is damaged"):
        embedded.unpack(path.read_bytes())


_ARCHIVES = [
    File("other.tar.gz", _written("cifar-10-binary.tar.gz", b"hello"), _load_archive, "must have SHA-256"),
    File("repacked bomb.gz", _written("train-images-idx3-ubyte.gz", lambda: gzip.compress(bytes(2**27), 1)),
         _check_gzip, "must have SHA-256"),
    File("cut embedded.xz", _written("cut.xz", lambda: lzma.compress(bytes(999))[:-9]), _unpack, "is damaged"),
    File("empty embedded.xz", _written("empty.xz", lambda: lzma.compress(b"")), _unpack, "is damaged"),
]


# The cache of decoded arrays: a damaged entry is reported and made again, so its report is what is said.
def _fill(output):
    for split in ("train", "test"):
        np.save(output / f"{split}_images.npy", np.zeros((3, 2, 2, 1), np.uint8))
        np.save(output / f"{split}_labels.npy", np.zeros(3, np.int32))
    return ["a"]


def _cached(change):
    def make(folder):
        cache.load("made", folder / "entry", _fill)
        change(folder / "entry")
        return folder / "entry"
    return make


def _read_cached(path):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("morel_jax.data.cache")
    logger.addHandler(handler)
    try:
        cache.load("made", path, _fill)
    finally:
        logger.removeHandler(handler)
    if said:
        raise ValueError(*said)


def _rewritten(name, change):
    def apply(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(change(content))
    return apply


def _edited(name, change):
    def edit(content):
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()
    return _rewritten(name, edit)


def _hashed_again(name, change):
    """A file changed by somebody who changes its checksum, too."""
    def apply(folder):
        _rewritten(name, change)(folder)
        manifest.write(folder)
    return apply


def _listed(**entries):
    return _edited(manifest.NAME, lambda value: value.update(entries))


_CACHE = [File(f"cache: {name}", _cached(change), _read_cached, says) for name, change, says in (
    ("nested deeply", _rewritten(manifest.NAME, lambda _: b"[" * 1_000_000), "is cut or altered"),
    ("list", _rewritten(manifest.NAME, lambda _: b"[]"), "is cut or altered"),
    ("record nested deeply", _hashed_again("entry.json", lambda _: b"[" * 1_000_000), "nested too deeply"),
    ("record of another kind", _hashed_again("entry.json", lambda _: b"[]"), "must hold a JSON object"),
    ("no names", _hashed_again("entry.json", lambda _: b"{}"), "'class_names' of type list"),
    ("outside", _listed(**{"../../../../etc/passwd": {"bytes": 1, "blake2b": ""}}), "damaged"),
    ("endless", _listed(**{"/dev/zero": {"bytes": 0, "blake2b": ""}}), "/dev/zero is missing"),
    ("number for a file", _listed(**{"test_images.npy": 7}), "is cut or altered"),
    ("null", _listed(**{"test_images.npy": None}), "is cut or altered"),
    ("another class", _rewritten("entry.json", lambda old: old.replace(b"a", b"b")), "is not what was written"),
    ("label of no class", _hashed_again("test_labels.npy", lambda old: old[:-4] + b"\7\0\0\0"), "must be below"),
    ("header claims 4 GB", _hashed_again("test_images.npy", lambda old: (
        b"\x93NUMPY\3\0\xff\xff\xff\xff" + old[12:])), "damaged"),
    ("header of brackets", _hashed_again("test_images.npy", lambda old: _HEADER + b"(" * (len(old) - 10)), "damaged"),
    ("array claims 730 GiB", _hashed_again("test_images.npy", lambda old: (
        old.replace(b"(3, 2, 2, 1), }       ", b"(3, 2, 2, 9999999999)}")[:len(old)])), "damaged"),
)]


# Data sets that TFDS prepared.
@functools.cache
def _prepared(image=None):
    """A data set's folder; ``image`` makes the bytes of each image from the right ones."""
    from tests.data.test_prepared import png, prepare

    def example(_, pixels, label):
        return {"image": image(png(pixels)), "label": label}

    folder = Path(tempfile.mkdtemp())
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(folder, example=image and example)
    return folder / "shapes" / "1.2.0"


def _with_damage(change, image=None):
    def make(folder):
        shutil.copytree(_prepared(image), folder / "1.2.0")
        change(folder / "1.2.0")
        return folder / "1.2.0"
    return make


def _vast(png):
    """The same PNG, but its header claims 60,000 by 60,000 pixels."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def _text(_):
    return b"hello"


def _load_prepared(path):
    data.load("shapes", data_dir=path, cache_dir=path.parent / "cache")


def _record(change):
    return lambda folder: _rewritten("shapes-train.array_record-00000-of-00001", change)(folder)


def _shards(**changes):
    return _edited("dataset_info.json", lambda info: [split.update(changes) for split in info["splits"]])


def _many_classes(folder):
    (folder / "label.labels.txt").unlink()
    _rewritten("features.json", lambda old: old.replace(b'"numClasses": "3"', b'"numClasses": "1000000000000"'))(folder)


_PREPARED = [File(f"prepared: {name}", _with_damage(change), _load_prepared, says) for name, change, says in (
    ("empty metadata", _rewritten("dataset_info.json", lambda _: b""), "is not valid JSON"),
    ("metadata nested deeply", _rewritten("dataset_info.json", lambda _: b"[" * 1_000_000), "nested too deeply"),
    ("list of metadata", _rewritten("dataset_info.json", lambda _: b"[]"), "must hold a JSON object"),
    ("cut features", _rewritten("features.json", lambda old: old[:40]), "holds no data set that can be read"),
    ("features of another program", _edited("features.json", lambda value: value.update(pythonClassName="os.system")),
     "Unrecognized FeatureConnector type: os.system"),
    ("cut records", _record(lambda old: old[:len(old) // 2]), "holds no data set that can be read"),
    ("no records", _record(lambda _: b""), "holds no data set that can be read"),
    ("overwritten records", _record(lambda old: old[:200] + bytes(50) + old[250:]), "hash mismatch"),
    ("missing records", lambda folder: os.remove(folder / "shapes-train.array_record-00000-of-00001"), "open() failed"),
    ("a million million images", _shards(shardLengths=["1000000000000"]), "claim 1000000000000 images"),
    ("less than no images", _shards(shardLengths=["-1"]), "claim -1 images"),
    ("a million million classes", _many_classes, "claim 1000000000000 classes"),
    ("no splits", _edited("dataset_info.json", lambda info: info.update(splits=[])), "must have a split 'train'"),
)]


def _blank(path):
    prepared.sizes(path)


_PREPARED += [File(f"prepared: {name}", _with_damage(lambda _: None, image), _load_prepared, says)
              for name, image, says in (("vast image", _vast, "exceeds limit"),
                                        ("text for an image", _text, "cannot identify image file"))]
_PREPARED.append(File("described: a million million images", _with_damage(_shards(shardLengths=["1000000000000"])),
                      _blank, "claim 1000000000000 images"))

# JSON that this library wrote.
_JSON = [File(f"{name}.json", _written("summary.json", content),
              lambda path: files.read_json(path, "Delete it.", {"settings": dict}), says) for name, content, says in (
    ("nested deeply", b"[" * 1_000_000, "nested too deeply"),
    ("cut", b'{"settings": {', "is not valid JSON"),
    ("binary", bytes(range(256)), "is not valid JSON"),
    ("huge number", b'{"settings": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    ("null", b'{"settings": null}', "must have a field 'settings' of type dict"),
)]

FILES = [*_PYTORCH, *_ODD_FILES, *_SAFETENSORS, *_NPZ, *_CORRUPTED, *_GZIP, *_ARCHIVES, *_CACHE, *_PREPARED, *_JSON]
