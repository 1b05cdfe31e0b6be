"""Directives whose content is read from the package when the site is built: flags, config fields, the two variants."""
import ast
import inspect
import json
import subprocess
import sys
import tokenize
from pathlib import Path

from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from morel_jax import builders, configuration
from morel_jax.training.members import SWEEPABLE

_FLAGS_OF = Path(__file__).parent / "flags_of.py"
_logger = logging.getLogger(__name__)


def flags_of(module):
    """The flags that a command defines, as `flags_of.py` describes them."""
    outcome = subprocess.run([sys.executable, _FLAGS_OF, module], capture_output=True, text=True, check=True)
    return json.loads(outcome.stdout)


def comments_of_fields():
    """{"section.field": its comment in ``morel_jax.configuration.defaults``}; fields without one are left out."""
    lines, _ = inspect.getsourcelines(configuration.defaults)
    trailing, above = {}, {}
    tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    for token in tokens:
        if token.type == tokenize.COMMENT:
            number, text = token.start[0], token.string.lstrip("# ")
            (above if lines[number - 1].lstrip().startswith("#") else trailing)[number] = text

    def comment(node):
        before, number = [], node.lineno - 1
        while number in above:
            before, number = [above[number], *before], number - 1
        return " ".join([*before, trailing[node.end_lineno]] if node.end_lineno in trailing else before)

    found = {}
    for statement in ast.parse("".join(lines)).body[0].body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute)):
            continue
        name = statement.targets[0].attr
        if isinstance(statement.value, ast.Call):
            for field in statement.value.args[0].keywords:
                found[f"{name}.{field.arg}"] = comment(field.value)
        else:
            found[name] = comment(statement)
    return {field: text for field, text in found.items() if text}


def shown(value):
    """A config's value as code; a float that is some 255ths as that fraction."""
    if isinstance(value, float) and 0 < value < 1:
        levels = round(value * 255, 9)
        if levels == round(levels, 1) and value != round(value, 4):
            return f"{levels:g}/255"
    if isinstance(value, tuple):
        return f"({', '.join(shown(entry) for entry in value)})"
    return repr(value)


def _cell(text):
    return text.replace("|", "\\|")


class _Written(SphinxDirective):
    """A directive whose content is written as Markdown."""

    def run(self):
        return self.parse_text_to_nodes(self.text(), allow_section_headings=True)


_KINDS = {"config object": "FILE[:NAMES]", "comma separated list of strings": "A,B,..."}


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
        text += f" Default: `{','.join(default) if isinstance(default, list) else default}`."
    return f"```{{option}} --{name}={values}\n{text}\n```"


class Flags(_Written):
    """``{flags} morel_jax.train``: each flag with its default."""
    required_arguments = 1

    def text(self):
        module, = self.arguments
        return "\n\n".join([f"```{{program}} {module}\n```", *map(_option, flags_of(module))])


class ConfigFields(_Written):
    """``{config-fields}``: all fields with default and rule. The content is meanings, ``section.field: text`` a line;
    what the source's comment says is added. A field that has neither is a warning, as is a meaning without a field.
    """
    has_content = True

    def text(self):
        meanings = dict(line.split(": ", 1) for line in self.content if line.strip())
        comments, fields = comments_of_fields(), builders.flatten(configuration.defaults())
        for name in [*(meanings.keys() - fields.keys()), *(fields.keys() - meanings.keys() - comments.keys())]:
            _logger.warning("config field %s: a meaning without a field, or a field without a meaning", name,
                            location=self.get_location())
        sections = {}
        for field, default in fields.items():
            sections.setdefault(field.rpartition(".")[0], []).append((field, default))
        parts = []
        for section in sorted(sections):
            rows = [self.row(field, default, meanings.get(field, ""), comments.get(field, ""))
                    for field, default in sections[section]]
            table = ["| field | default | meaning |", "|---|---|---|", *rows]
            parts += [f"### {section or 'The run itself'}", "\n".join(table)]
        return "\n\n".join(parts)

    def row(self, field, default, meaning, comment):
        rule = builders._RULES[field][1] if field in builders._RULES else ""
        ends = "*Sweepable.*" if field in SWEEPABLE else "", f"*Must {rule}.*" if rule else ""
        said = " ".join(text for text in (meaning, comment, *ends) if text)
        return f"| `{field.rpartition('.')[2]}` | `{shown(default)}` | {_cell(said)} |"


class VariantDifferences(_Written):
    """``{variant-differences}``: fields in which ``paper`` and ``reference`` differ, for ResNet18."""

    def text(self):
        rows = {}
        for method in configuration.METHODS:
            paper, reference = (builders.flatten(configuration.recipe(f"resnet18,{method},{variant}"))
                                for variant in configuration.VARIANTS)
            for field in paper:
                unused = field.startswith("morel.") and not method.startswith("morel_")
                if field != "variant" and paper[field] != reference[field] and not unused:
                    rows.setdefault((field, shown(paper[field]), shown(reference[field])), []).append(method)
        table = ["| field | `paper` | `reference` | methods |", "|---|---|---|---|"]
        for (field, paper, reference), methods in sorted(rows.items()):
            of = "all" if len(methods) == len(configuration.METHODS) else ", ".join(f"`{name}`" for name in methods)
            table.append(f"| `{field}` | `{paper}` | `{reference}` | {of} |")
        return "\n".join(table)


def setup(app):
    """Registers the directives."""
    app.add_directive("flags", Flags)
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("variant-differences", VariantDifferences)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
