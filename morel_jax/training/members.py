"""The members of a population: settings that change a base config, checked and named."""
import ast
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from morel_jax.configuration import FIELDS, check, flatten, nested, unknown_field
from morel_jax.files import local_path, read_json
from morel_jax.optimizer import keeps_average
from morel_jax.schema import check_number

# What members may differ in: the seed, and what reaches the compiled program as a traced number and nothing else.
SWEEPABLE = tuple(name for name, field in FIELDS.items() if field.swept)
# Where 0.1, 0.2, ... would otherwise be 0.30000000000000004.
_DIGITS = 12
# Each has arrays and a folder of its own; a slip of the pen is found before any is made.
_MOST_MEMBERS = 10_000
# Of a folder's name, in bytes; file systems allow 255, and other names are made of it.
_LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a population.

    Attributes:
        name: of its folder, such as ``preference=0.1_0.9,seed=3``.
        changes: {"section.field": value}, what tells it from the base config.
        config: its whole config.
    """
    name: str
    changes: dict[str, Any]
    config: ConfigDict


def _with(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """A locked copy of ``config`` with ``changes``, whose types it leaves to ``configuration.check``."""
    return nested(flatten(config) | changes)


def shared_config(config: ConfigDict) -> FrozenConfigDict:
    """What all members have in common: ``config`` with the defaults where they may differ.

    Returns:
        Hashable, and equal for equal values.
    """
    return FrozenConfigDict(_with(config, {field: FIELDS[field].default for field in SWEEPABLE}))


def _full_name(field: str) -> str:
    """``preference`` stands for ``morel.preference``."""
    return "morel.preference" if field == "preference" else field


def _check_field(field: str) -> None:
    if field not in FIELDS:
        raise ValueError(unknown_field(field))
    if field not in SWEEPABLE:
        raise ValueError(f"config.{field} must be the same for all members: it changes the compiled program, or what "
                         f"members share; fields that may be swept: {', '.join(SWEEPABLE)}.")


def _value(field: str, value: Any, default: Any) -> Any:
    """A value as a config has it: lists as tuples, whole numbers as floats, a preference's second entry added."""
    if field == "morel.preference" and isinstance(value, (int, float)):
        check_number(field, value, float)
        return (float(value), round(1.0 - value, _DIGITS))
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(default, float):
        return value
    check_number(field, value, float)
    return float(value)


def _check_count(count: int) -> None:
    if count > _MOST_MEMBERS:
        raise ValueError(f"a population must have at most {_MOST_MEMBERS} members; got {count}.")


def _values_of(text: str, field: str, flag: str, default: Any) -> Sequence[Any]:
    steps = re.fullmatch(r"(.+?)\.\.(.+):(.+)", text)
    try:
        if not steps:
            # With a comma more, one value is a tuple too.
            return ast.literal_eval(text.rstrip(",") + ",")
        start, stop, count = float(steps[1]), float(steps[2]), int(steps[3])
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # literal_eval's, of what is no literal.
        raise ValueError(f"--sweep must be FIELD:VALUE,VALUE,... or FIELD:START..STOP:COUNT, in numbers; "
                         f"got {flag!r:.100}.") from None
    if count < 2 or not np.isfinite([start, stop]).all():
        raise ValueError(f"--sweep=FIELD:START..STOP:COUNT must have finite ends and a COUNT of at least 2; "
                         f"got {flag!r:.100}.")
    _check_count(count)
    values = [round(float(value), _DIGITS) for value in np.linspace(start, stop, count)]
    if isinstance(default, int):
        if not all(value.is_integer() for value in values):
            raise ValueError(f"--sweep must give whole numbers for config.{field}; got {flag!r:.100}, which is "
                             f"{values!r:.100}.")
        values = [int(value) for value in values]
    return values


def parse_sweeps(flags: Sequence[str]) -> list[dict[str, Any]]:
    """Settings of ``--sweep`` flags: their cartesian product, the last flag's values running fastest.

    Args:
        flags: list of ``FIELD:VALUE,VALUE,...`` or ``FIELD:START..STOP:COUNT`` (both ends included). A field is a
            dotted name of the config; ``preference`` takes k1 and sets k2 = 1 - k1.

    Returns:
        list of {"section.field": value}.

    Raises:
        ValueError: no such syntax, an unknown field, one that cannot be swept, or one given twice.
    """
    swept: dict[str, Sequence[Any]] = {}
    for flag in flags:
        name, _, text = flag.partition(":")
        field = _full_name(name.strip())
        if not text.strip():
            raise ValueError(f"--sweep must be FIELD:VALUE,VALUE,... or FIELD:START..STOP:COUNT; got {flag!r:.100}.")
        _check_field(field)
        if field in swept:
            raise ValueError(f"--sweep must name a field once; got config.{field} twice.")
        swept[field] = _values_of(text.strip(), field, flag, FIELDS[field].default)
    _check_count(math.prod(map(len, swept.values())))
    return [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]


def read_settings(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Settings of a JSON file: a list of {"section.field": value}.

    Raises:
        ValueError: not JSON, or not such a list.
        OSError: no such file.
    """
    remedy = 'It must hold a list of {"section.field": value}.'
    settings = read_json(local_path(path, "--sweep_file"), remedy)
    if not isinstance(settings, list) or not all(isinstance(setting, dict) for setting in settings):
        raise ValueError(f'{path} must hold a list of {{"section.field": value}}.')
    return settings


def _text(value: Any) -> str:
    return "_".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def build_members(config: ConfigDict, settings: Sequence[dict[str, Any]], own_model: Any = None) -> list[Member]:
    """The members of a population, checked.

    Args:
        config: the base, a ConfigDict with every field.
        settings: list of {"section.field": value}; ``preference`` may be k1 alone, as in :func:`parse_sweeps`.
        own_model: the caller's, which takes the place of ``config.model.name``; None: the config's.

    Returns:
        list of Member, in the order of ``settings``.

    Raises:
        ValueError: a field that is unknown or would change the compiled program, a value that its config's rules
            forbid, no settings, or the same twice; the message names field, rule and value.
    """
    check(config, own_model)
    if not isinstance(settings, (list, tuple)) or not all(isinstance(setting, dict) for setting in settings):
        raise ValueError(f'settings must be a list of {{"section.field": value}}; got {settings!r:.80}.')
    _check_count(len(settings))
    if not settings:
        raise ValueError("a population must have at least one member; got no settings.")
    fields = list(dict.fromkeys(_full_name(field) for setting in settings for field in setting))
    for field in fields:
        _check_field(field)
    last = [field.rpartition(".")[2] for field in fields]
    # The last part of a name is enough where it is one field's alone: `momentum` may be SGD's or BatchNorm's.
    shown = {field: name if last.count(name) == 1 else field for field, name in zip(fields, last, strict=True)}
    members = {}
    for setting in settings:
        full = {_full_name(field): value for field, value in setting.items()}
        if len(full) < len(setting):
            raise ValueError(f"a setting must name a field once; got {setting!r}.")
        changes = {field: _value(field, value, FIELDS[field].default) for field, value in full.items()}
        member_config = _with(config, changes)
        check(member_config, own_model)
        name = ",".join(f"{shown[field]}={_text(changes[field])}" for field in fields if field in changes) or "base"
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"a member's name, its changes, must have at most {_LONGEST_NAME} bytes; got {name}.")
        if name in members:
            raise ValueError(f"settings must differ; got {name} twice.")
        members[name] = Member(name, changes, member_config)
    if len({keeps_average(member.config) for member in members.values()}) > 1:
        averages = [(member.config.ema_decay, member.config.swa_first_epoch) for member in members.values()]
        raise ValueError("config.ema_decay and config.swa_first_epoch must both be 0 for all members or for none: an "
                         f"average is a part of the state; got {sorted(set(averages))}.")
    return list(members.values())
