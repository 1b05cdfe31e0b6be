"""A setting as one declaration: its default, its rule, what it means, and how it reaches the compiled program."""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from morel_jax import checks

# Characters of a wrong value that are shown.
_SHOWN = 200
# Numbers reach the program as float32 and int32.
LARGEST_FLOAT, _SMALLEST_FLOAT = (float(number) for number in (np.finfo(np.float32).max, np.finfo(np.float32).tiny))
LARGEST_INT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field's value must satisfy.

    Attributes:
        holds: function of the value.
        text: ends the sentence "config.<field> must ...".
    """
    holds: Callable[[Any], bool]
    text: str


@dataclasses.dataclass(frozen=True)
class Field:
    """One setting of a config.

    Attributes:
        default: a plain value; every value of the field has its type.
        meaning: for the documentation, one sentence or two.
        rule: None allows any value of the type.
        source: where the default comes from, such as "paper, 4.1".
        traced: name of the leaf of ``HParams`` that the number becomes; "": it is no leaf.
        swept: whether the members of a sweep may differ in it, because it reaches the compiled program only as a
            number. Traced fields may, and those that only a schedule reads.
        may_differ: whether a run may be resumed with another value, because the field says where things are, not what
            is computed.
        formerly: the field's name in configs of earlier versions.
        former_values: {value under that name: the present one}, where they differ.
    """
    default: Any
    meaning: str
    rule: Rule | None = None
    source: str = ""
    traced: str = ""
    swept: bool = False
    may_differ: bool = False
    formerly: str = ""
    former_values: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "swept", self.swept or bool(self.traced))


    def text(self) -> str:
        """Its meaning, source, whether a sweep or a resumption may vary it, and its rule, in sentences."""
        return (self.meaning + (f" Source: {self.source}." if self.source else "")
                + (" Sweepable." if self.swept else "") + (" May change in a resumption." if self.may_differ else "")
                + (f" Must {self.rule.text}." if self.rule else ""))


def shown(value: Any) -> str:
    """A field's value as code; a float that is a multiple of 0.1 / 255 as that fraction."""
    if isinstance(value, float) and 0 < value < 1:
        levels = round(value * 255, 9)
        if levels == round(levels, 1) and value != round(value, 4):
            return f"{levels:g}/255"
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    return repr(value)


def one_of(*names: str) -> Rule:
    """The Rule of a field that takes one of these names."""
    return Rule(lambda value: value in names, f"be one of {', '.join(names)}")


def each(rule: Rule) -> Rule:
    """The Rule of a tuple each of whose entries keeps ``rule``."""
    return Rule(lambda values: all(map(rule.holds, values)), rule.text)


POSITIVE = Rule(lambda value: value > 0, "be positive")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "be 0 or more")
AT_LEAST_1 = Rule(lambda value: value >= 1, "be at least 1")
RADIUS = Rule(lambda value: value >= checks.SMALLEST_RADIUS,
              f"be at least {checks.SMALLEST_RADIUS:.0e}, and in linf at most 1, the width of images in [0, 1]")
SHARE = Rule(lambda value: bool(0 <= value and np.float32(value) < 1), "be in [0, 1), also when rounded to float32")


def error(name: str, rule: str, value: Any) -> ValueError:
    """ValueError for a field's value.

    Args:
        name: "section.field".
        rule: what it must do, as in :class:`Rule`.
        value: what it is.
    """
    return ValueError(f"config.{name} must {rule}; got {repr(value)[:_SHOWN]}.")


def check_number(name: str, value: Any, kind: type) -> None:
    """Raises ValueError unless a field's value is a number of ``kind``, int or float, that the program can hold."""
    if kind is int:
        if type(value) is not int:
            raise error(name, "be of type int", value)
        if not -LARGEST_INT <= value <= LARGEST_INT:
            raise error(name, "be less than 2**31 in size, as int32 has it", value)
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise error(name, "be a number", value)
    if not abs(value) <= LARGEST_FLOAT:
        raise error(name, "be finite, and at most 3.4e38 as float32 has it", value)
    if 0 < abs(value) < _SMALLEST_FLOAT:
        raise error(name, "be 0 or at least 1.2e-38 in size, as float32 has it", value)


def check_value(name: str, field: Field, value: Any) -> None:
    """Raises ValueError unless ``value`` has the type of ``field`` and keeps its rule; ``name`` is "section.field"."""
    default = field.default
    if isinstance(default, tuple):
        kind = type(default[0]) if default else float
        if not isinstance(value, tuple) or (kind is str and not all(isinstance(entry, str) for entry in value)):
            raise error(name, f"be a tuple of {'names' if kind is str else 'numbers'}", value)
        if kind is not str:
            for place, entry in enumerate(value):
                check_number(f"{name}[{place}]", entry, kind)
    elif name == "seed" and type(value) is int:  # Of another type it is refused below.
        checks.seed(value, "config.seed")
    elif type(default) in (int, float):
        check_number(name, value, type(default))
    elif type(value) is not type(default):
        raise error(name, f"be of type {type(default).__name__}", value)
    if field.rule and not field.rule.holds(value):
        raise error(name, field.rule.text, value)
