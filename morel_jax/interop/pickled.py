"""PyTorch's own files, read without PyTorch and without running anything in them.

Files of PyTorch 1.6 and later are zip archives of ``data.pkl`` and one entry per storage. Earlier ones are five pickles
in a row, followed by the storages. Format: ``torch/serialization.py`` of PyTorch 2.13.
"""
import functools
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# A network's pickle has tens of kilobytes. Twenty million opcodes of one byte, which take seconds, are no network.
_MOST_PICKLE = 2**23
_STORAGES: dict[str, Any] = {"Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": jnp.bfloat16,
             "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
             "ComplexFloat": np.complex64, "ComplexDouble": np.complex128}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_ODD_TENSORS = {"torch._utils._rebuild_sparse_tensor": "sparse", "torch._utils._rebuild_sparse_csr_tensor": "sparse",
                "torch._utils._rebuild_qtensor": "quantised", "torch._utils._rebuild_nested_tensor": "nested",
                "torch._utils._rebuild_meta_tensor_no_storage": "meta (it has no values)",
                "torch._utils._rebuild_tensor_v3": "of a type like float8 or uint16"}
# What files beside the tensors may hold; each becomes `Opaque`, as does whatever else begins with torch.
_HARMLESS = ("_codecs.encode", "builtins.set", "builtins.complex", "builtins.bytearray", "collections.Counter",
             "collections.defaultdict")


class Opaque(NamedTuple):
    """An object that was not built, or a ``tensor`` whose values this library does not read."""
    kind: str
    tensor: bool = False


class _Storage(NamedTuple):
    type: str
    key: str
    start: int


class Lazy(NamedTuple):
    """A dense tensor whose bytes have not been read; ``shape`` and ``strides`` are in elements."""
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


Values = Callable[[Lazy], np.ndarray]


class _Global(str):
    """The full name of a class or function."""
    __slots__ = ()


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, which here calls nothing and hashes nothing that takes long."""
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list
    append: Callable
    pop_mark: Callable

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> _Global:
        full = f"{module}.{name}".replace("__builtin__", "builtins")  # Of Python 2.
        if full == "collections.OrderedDict" or full in _HARMLESS or module.partition(".")[0] == "torch":
            return _Global(full)
        raise pickle.UnpicklingError(f"Unsupported global: {_short(full)}")

    def persistent_load(self, saved: Any) -> _Storage:
        kind, of_type, key, _, _, *view = saved
        if kind != "storage" or not isinstance(of_type, _Global) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage that is not PyTorch's")
        start = 0
        if view and view[0] is not None:  # In old files a part of a storage may be a storage itself.
            _, start, _ = view[0]
        self.storages[key] = _Storage(of_type.removeprefix("torch.").removesuffix("Storage"), key, start)
        return self.storages[key]

    def load_reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack[-1]
        if not isinstance(called, _Global):
            raise pickle.UnpicklingError("a call of something that is no function")
        if called in _PARAMETERS:
            made = arguments[0]
        elif called in _TENSORS and not any(arguments[6:]):  # The seventh would say that the values are negated.
            made = Lazy(*arguments[:4])
        elif called == "collections.OrderedDict":
            made = {}
            self._set(made, [item for pair in (arguments[0] if arguments else ()) for item in pair])
        else:
            kind = _ODD_TENSORS.get(called, f"an object of {called}")
            made = Opaque(kind, called in _ODD_TENSORS or called.startswith("torch._utils._rebuild"))
        self.stack[-1] = made

    def load_build(self) -> None:
        self.stack.pop()  # Attributes, such as a state dict's ``_metadata``: not read.

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def load_dict(self) -> None:
        items, made = self.pop_mark(), dict[Any, Any]()
        self._set(made, items)
        self.append(made)

    def load_empty_set(self) -> None:
        self.append(Opaque("a set"))

    def load_additems(self) -> None:
        self.pop_mark()

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("an object that is no tensor and no plain value")

    def _set(self, made: Any, items: list) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple of tuples of tuples, each twice in the next, would take forever to hash.
            if type(made) is not dict or not isinstance(key, (str, bytes, int, float, type(None))):
                raise pickle.UnpicklingError(f"a dict with a key of type {type(key).__name__}")
            made[key] = value

    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem,
                 pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict, pickle.EMPTY_SET[0]: load_empty_set,
                 pickle.ADDITEMS[0]: load_additems}
    # These build objects, or allocate as much memory as a number claims.
    dispatch |= dict.fromkeys([code[0] for code in (
        pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
        pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID)], load_refused)


def load(path: Path) -> tuple[Any, Values]:
    """What a file holds, and a function for the values of its tensors.

    Returns:
        (content, values): plain values, dicts and lists, with `Lazy` for each tensor and `Opaque` for everything else;
        ``values(lazy)`` is a read-only numpy array.

    Raises:
        ValueError, or one of many errors: the file is damaged, or not of PyTorch's.
    """
    if not zipfile.is_zipfile(path):
        return _load_legacy(path.read_bytes())
    archive = zipfile.ZipFile(path)
    size = path.stat().st_size
    entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
    for name, entry in entries.items():
        # PyTorch compresses nothing.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            raise ValueError(f"its entry {_short(name)} is compressed or claims {entry.file_size} of the file's "
                             f"{size} bytes")
    if "data.pkl" not in entries or entries["data.pkl"].file_size > _MOST_PICKLE:
        raise ValueError(f"it must hold data.pkl, of at most {_MOST_PICKLE} bytes")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise ValueError("it was written on a machine with another byte order")
    content = _Unpickler(io.BytesIO(archive.read(entries["data.pkl"]))).load()
    storage = functools.cache(lambda key: archive.read(entries[f"data/{key}"]))  # Many tensors may share one.
    return content, lambda lazy: _values(lazy, storage(lazy.storage.key))


def _load_legacy(content: bytes) -> tuple[Any, Values]:
    stream = io.BytesIO(content[:_MOST_PICKLE])

    def next_pickle() -> tuple[Any, dict[str, _Storage]]:
        unpickler = _Unpickler(stream, encoding="latin1")  # Of Python 2, where strings were bytes.
        return unpickler.load(), unpickler.storages

    if next_pickle()[0] != _LEGACY_MAGIC:
        raise ValueError("it begins like none of PyTorch's files")
    next_pickle(), next_pickle()  # Version of the format; sizes of the writer's C types.
    (loaded, storages), (keys, _) = next_pickle(), next_pickle()
    places, start = {}, stream.tell()
    for key in keys:
        end = start + 8 + _element(storages[key]).itemsize * int.from_bytes(content[start:start + 8], "little")
        places[key], start = content[start + 8:end], end
    return loaded, lambda lazy: _values(lazy, places[lazy.storage.key])


def _element(storage: _Storage) -> np.dtype:
    if storage.type not in _STORAGES:
        raise ValueError(f"its tensors of type {_short(storage.type)} cannot be read")
    return np.dtype(_STORAGES[storage.type])


def _values(lazy: Lazy, content: bytes) -> np.ndarray:
    """A view of a storage's bytes; sizes are trusted only as far as there are bytes."""
    stored = np.frombuffer(content, _element(lazy.storage))
    numbers = (lazy.offset, lazy.storage.start, *lazy.shape, *lazy.strides)
    if not all(type(number) is int and 0 <= number < 2**60 for number in numbers) or len(lazy.shape) > 32:
        raise ValueError("a tensor whose sizes are no sizes")
    start, count = lazy.storage.start + lazy.offset, math.prod(lazy.shape)
    last = start + sum((size - 1) * stride for size, stride in zip(lazy.shape, lazy.strides, strict=True))
    if count and (last >= len(stored) or count > len(stored)):
        raise ValueError(f"a tensor of shape {lazy.shape} has {len(stored)} stored elements")
    return np.lib.stride_tricks.as_strided(stored[start:], lazy.shape, [stored.itemsize * one for one in lazy.strides])


def _short(text: str) -> str:
    return repr(text if len(text) < 80 else f"{text[:80]}…")
