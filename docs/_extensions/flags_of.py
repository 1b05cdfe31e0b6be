"""Prints a command's own flags as JSON: ``python flags_of.py morel_jax.train``.

Commands share names of flags, so each is asked in a process of its own.
"""
import importlib
import json
import sys

from absl import flags


def describe(flag):
    """What the reference says of one absl flag."""
    kind = flag.flag_type()
    help_text = flag.help.split(";\n")[0]  # absl adds that a flag may be repeated,
    if "enum" in kind:
        help_text = help_text.split(">: ", 1)[-1]  # and an enum's values before the text.
    return {"name": flag.name, "kind": kind, "help": help_text, "repeated": kind.startswith("multi"),
            "default": None if kind == "config object" else flag.default,
            "values": getattr(flag.parser, "enum_values", None)}


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    json.dump([describe(flag) for flag in flags.FLAGS.get_key_flags_for_module(module)], sys.stdout)
