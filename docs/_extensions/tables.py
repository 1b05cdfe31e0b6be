"""Directives whose content is read from the package when the site is built: flags, config fields, the two variants."""
import json
import subprocess
import sys
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

from morel_jax import attack_names, configuration
from morel_jax.methods import METHODS
from morel_jax.schema import shown

_FLAGS_OF = Path(__file__).parent / "flags_of.py"


def flags_of(module):
    """The flags that a command defines, as `flags_of.py` describes them."""
    outcome = subprocess.run([sys.executable, _FLAGS_OF, module], capture_output=True, text=True, check=True)
    return json.loads(outcome.stdout)


def _cell(text):
    return text.replace("|", "\\|")


class _Written(SphinxDirective):
    """A directive whose content is written as Markdown."""

    def run(self):
        return self.parse_text_to_nodes(self.text(), allow_section_headings=True)


_KINDS = {"config object": "FILE[:NAMES]", "function": "FILE.py:FUNCTION", "comma separated list of strings": "A,B,..."}


def _option(flag):
    """One flag as an option with its text."""
    kind, default = flag["kind"].removeprefix("multi "), flag["default"]
    name, text = flag["name"], flag["help"].replace("<", "\\<")
    if kind == "bool":
        return f"```{{option}} --[no]{name}\n{text} Default: {'on' if default else 'off'}.\n```"
    values = " | ".join(flag["values"] or []) or _KINDS.get(kind, kind.upper())
    if flag["repeated"] and "several times" not in text:
        text += " May be given several times."
    if default not in (None, "", []):
        text += ("\n\n" if "\n" in text else " ") + \
            f"Default: `{','.join(default) if isinstance(default, list) else default}`."
    return f"```{{option}} --{name}={values}\n{text}\n```"


class Flags(_Written):
    """``{flags} morel_jax.train``: each flag with its default."""
    required_arguments = 1

    def text(self):
        module, = self.arguments
        return "\n\n".join([f"```{{program}} {module}\n```", *map(_option, flags_of(module))])


class ConfigFields(_Written):
    """``{config-fields}``: all fields, with default, meaning, source and rule."""

    def text(self):
        sections = {}
        for name, field in configuration.FIELDS.items():
            sections.setdefault(name.rpartition(".")[0], []).append(self.row(name, field))
        return "\n\n".join("\n".join([f"### {section or 'The run itself'}", "", "| field | default | meaning |",
                                       "|---|---|---|", *sections[section]]) for section in sorted(sections))

    def row(self, name, field):
        return f"| `{name.rpartition('.')[2]}` | `{shown(field.default)}` | {_cell(field.text())} |"


class Attacks(_Written):
    """``{attacks}``: what ``--attacks`` takes."""

    def text(self):
        limits = {entry.name: (", ".join(entry.norms), str(entry.fewest_classes)) for entry in attack_names.ATTACKS}
        return "\n".join(["| name | what it is | norms | classes, at least |", "|---|---|---|---|", *(
            f"| `{name}` | {text} | {' | '.join(limits.get(name, ('', '')))} |"
            for name, text in attack_names.known().items())])


class VariantDifferences(_Written):
    """``{variant-differences}``: fields in which ``paper`` and ``reference`` differ, for ResNet18."""

    def text(self):
        rows = {}
        for method in METHODS:
            paper, reference = (configuration.flatten(configuration.recipe(f"resnet18,{method},{variant}"))
                                for variant in configuration.VARIANTS)
            for field in paper:
                unused = field.startswith("morel.") and not method.startswith("morel_")
                if field != "variant" and paper[field] != reference[field] and not unused:
                    rows.setdefault((field, shown(paper[field]), shown(reference[field])), []).append(method)
        table = ["| field | `paper` | `reference` | methods |", "|---|---|---|---|"]
        for (field, paper, reference), methods in sorted(rows.items()):
            of = "all" if len(methods) == len(METHODS) else ", ".join(f"`{name}`" for name in methods)
            table.append(f"| `{field}` | `{paper}` | `{reference}` | {of} |")
        return "\n".join(table)


class Methods(_Written):
    """``{methods}``: each method's name, what its module says it is, and whether MOREL can be put over it."""

    def text(self):
        rows = ["| method | what it is | MOREL over it |", "|---|---|---|"]
        for name, method in METHODS.items():
            if not method.has_embedding:
                says = sys.modules[method.loss.__module__].__doc__.partition("\n")[0].rstrip(".")
                over = f"`morel_{name}`" if f"morel_{name}" in METHODS else "no: it has one pass only"
                rows.append(f"| `{name}` | {_cell(says)} | {over} |")
        return "\n".join(rows)


def setup(app):
    """Registers the directives."""
    app.add_directive("attacks", Attacks)
    app.add_directive("flags", Flags)
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("methods", Methods)
    app.add_directive("variant-differences", VariantDifferences)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
