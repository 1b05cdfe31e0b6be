"""The package's docstrings as Sphinx needs them: formulas are indented paragraphs, undocumented members private."""
import re

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_SHAPED = re.compile(r"~?jaxtyping\.(\w+)\[[^,\]]+, '([^']*)'\]")
_ARRAY_LIKE = re.compile(r"~?[\w.]*\.Array \| ~?numpy\.ndarray \|.*?\| complex")


def mark_formulas(lines):
    """Lines of a docstring -> the same, with ``::`` before every indented block that no section heads."""
    marked, last, after_blank = [], "", True
    for line in lines:
        indented = line.startswith(" ")
        if line.strip():
            if indented and after_blank and last and not last.startswith((" ", "- ")) and not _SECTION.match(last):
                marked += ["::", ""]
            last = line
        after_blank = not line.strip()
        marked.append(line)
    return marked


def mark_tables(lines):
    """Lines of a docstring -> the same, with tables of Markdown as reStructuredText has them."""
    marked = []
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            marked.append(line)
        elif not set(line) <= set("|- "):
            if not number or not lines[number - 1].startswith("|"):
                marked += [".. list-table::", "   :header-rows: 1", ""]
            marked += [f"   {' ' if place else '*'} - {cell.strip()}"
                       for place, cell in enumerate(line.strip().strip("|").split("|"))]
    return marked


def mark_plurals(lines):
    """Lines of a docstring -> the same, with what follows directly on closing backticks told apart from them."""
    return [re.sub(r"(?<!`)(`[^`\s](?:[^`]*[^`\s])?`)(?=\w)", r"\1\\ ", line) for line in lines]


def short_types(text):
    """A signature -> the same, with shapes as docstrings write them: ``float[n, c]``."""
    def shaped(match):
        dims = ", ".join(match[2].split())
        return f"{match[1].lower()}[{dims}]" if dims else match[1].lower()

    return _ARRAY_LIKE.sub("ArrayLike", _SHAPED.sub(shaped, text)) if text else text


def _signature(app, what, name, obj, options, signature, returns):
    return short_types(signature), short_types(returns)


def _process(app, what, name, obj, options, lines):
    if what == "data" and getattr(type(obj), "__doc__", None) == getattr(obj, "__doc__", None):
        lines.clear()  # What Python says of dict or int is not of this one.
    lines[:] = mark_tables(mark_formulas(mark_plurals(lines)))


def _skip(app, what, name, obj, skip, options):
    """A class shows what it documents; Flax's and dataclasses' own members have no place in it."""
    if what == "module":
        return None
    documented = bool(getattr(obj, "__doc__", None)) and not isinstance(obj, (bool, int, float, str, tuple))
    own = getattr(obj, "__module__", None) or getattr(getattr(obj, "fget", None), "__module__", "")
    return None if documented and str(own).startswith("morel_jax") and name != "replace" else True


def setup(app):
    """Connects the hooks; ahead of napoleon's, which runs at 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
