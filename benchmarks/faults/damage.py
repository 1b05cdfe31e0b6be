"""Damaging one file, in the ways that disks, editors and interrupted copies do."""
import json

from benchmarks.faults.compare import is_content

# In place of any JSON value.
_OTHERS = (None, True, -1, 0.5, 10**400, "text", [], {}, [[]], {"a": {}})


def cut(path, random):
    """The first half is left."""
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])


def empty(path, random):
    """Nothing is left."""
    path.write_bytes(b"")


def flip(path, random):
    """One bit is another."""
    content = bytearray(path.read_bytes())
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def remove(path, random):
    """The file is not there."""
    path.unlink()


def fill_with_nul(path, random):
    """As long as before, all NUL, as after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


def replace_by_folder(path, random):
    """A folder with the file's name."""
    path.unlink()
    path.mkdir()


def change_type(path, random):
    """A JSON value of another type, in place of the whole or of a part; of a file that is no JSON, text."""
    text = path.read_text(errors="replace")
    try:
        lines = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    except ValueError:
        lines = []
    if not lines:
        path.write_text("text\n")
        return
    number = random.randrange(len(lines))
    lines[number] = _with_another(lines[number], random)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _with_another(value, random):
    """``value`` with one part, or all of it, of another type."""
    if random.random() < 0.6:
        if isinstance(value, dict) and value:
            key = random.choice(sorted(value))
            return value | {key: _with_another(value[key], random)}
        if isinstance(value, list) and value:
            index = random.randrange(len(value))
            return [*value[:index], _with_another(value[index], random), *value[index + 1:]]
    return random.choice([other for other in _OTHERS if type(other) is not type(value)])


DAMAGES = {function.__name__: function
           for function in (cut, empty, flip, remove, change_type, fill_with_nul, replace_by_folder)}


def kind_of(name):
    """A file's kind, so that each is damaged as often, however many there are of it.

    Args:
        name: relative Path.

    Returns:
        str: the file's name, or of checkpoints which they are.
    """
    parts = name.parts
    if "checkpoints" in parts:
        which = parts[parts.index("checkpoints") + 1]
        return f"{which}: {name.name if name.suffix == '.json' else 'record' if 'record' in parts else 'arrays'}"
    return name.suffix if name.suffix in (".npy", ".gz") else name.name


def candidates(folder):
    """{kind: [relative Path]} of the files that may be damaged; not locks, and not what is written for TensorBoard."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and is_content(name):
            found.setdefault(kind_of(name), []).append(name)
    return found

