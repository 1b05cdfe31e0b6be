"""What a power cut would leave of a folder: a model of a disk, fed with the calls that a process makes.

What a file holds is on the disk once it was fsynced, and a folder's names once the folder was. Of what came after that,
any part may be there; three extremes stand for all. TensorStore writes from C++, where no call can be recorded: so what
is found in a folder counts as not synced unless a call from Python synced it.
"""
import contextlib
import os
import stat
import threading
from unittest import mock

# Calls after which the disk may hold something else.
_CALLS = ("fsync", "mkdir", "rename", "replace", "unlink", "remove", "rmdir")


class Disk:
    """A folder, and what of it is on the disk.

    Args:
        root: Path; itself on the disk, and empty.
        at_each_point: called with ``(call, views)`` before each call; a view is {relative path: bytes}, folders None.
    """

    def __init__(self, root, at_each_point):
        self._root, self._at_each_point = root, at_each_point
        self._lock = threading.RLock()
        self._files, self._folders = {}, {}  # By inode: what was synced of it.
        self._generation = {}  # An inode's number is given again once it is free.
        self._folders[self._key(os.stat(root))] = {}

    def _key(self, status):
        return status.st_ino, self._generation.get(status.st_ino, 0)

    def _listing(self, folder):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            found = {}
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found[entry.name] = self._key(entry.stat(follow_symlinks=False)), entry.is_dir()
            return found
        return {}

    def _synced(self, key, path="", removals=False):
        for name, (child, is_dir) in self._folders.get(key, {}).items():
            if removals and self._generation.get(child[0], 0) != child[1]:
                continue
            inner = f"{path}{name}"
            yield inner, None if is_dir else self._files.get(child, b"")
            if is_dir:
                yield from self._synced(child, f"{inner}/", removals)

    def _names(self, folder, path=""):
        for name, (child, is_dir) in self._listing(folder).items():
            yield f"{path}{name}", None if is_dir else self._files.get(child, b"")
            if is_dir:
                yield from self._names(os.path.join(folder, name), f"{path}{name}/")

    def views(self):
        """What may be left: what was synced and no more; the same without what was removed; all names that are there
        now, files without what was not synced."""
        root = self._key(os.stat(self._root))
        return [dict(self._synced(root)), dict(self._synced(root, removals=True)), dict(self._names(self._root))]

    def _called(self, name, original, *arguments, **options):
        with self._lock:
            self._at_each_point(name, self.views())
            freed = None
            with contextlib.suppress(OSError):
                if name in ("unlink", "remove", "rmdir"):
                    freed = os.stat(*arguments, **options, follow_symlinks=False).st_ino
                elif name in ("rename", "replace"):
                    freed = os.stat(arguments[1]).st_ino
            result = original(*arguments, **options)
            if freed is not None:
                self._generation[freed] = self._generation.get(freed, 0) + 1
            if name == "fsync":
                status, path = os.fstat(*arguments), os.readlink(f"/proc/self/fd/{arguments[0]}")
                if stat.S_ISDIR(status.st_mode):
                    self._folders[self._key(status)] = self._listing(path)
                else:
                    with open(path, "rb") as file:
                        self._files[self._key(status)] = file.read()
            return result

    @contextlib.contextmanager
    def recording(self):
        """While it lasts, the process's calls are recorded."""
        with contextlib.ExitStack() as stack:
            for name in _CALLS:
                original = getattr(os, name)
                stack.enter_context(mock.patch.object(
                    os, name, lambda *arguments, name=name, original=original, **options: self._called(
                        name, original, *arguments, **options)))
            yield
