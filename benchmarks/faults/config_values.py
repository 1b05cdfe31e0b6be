"""Bad values of every config field: one line that names the field, before anything compiles."""
import importlib
import json
import math
import random
import signal
from unittest import mock

import ml_collections
import numpy as np

from benchmarks.faults.scenarios import CONFIGS
from morel_jax import builders
from morel_jax.configuration import flatten, load_file

# Of the kinds that fields have, by default. `_LARGE` is one that no float holds.
_LARGE = 10**400
_OF_ANY = (None, {}, [[]], object)
_NUMBERS = (math.nan, math.inf, -math.inf, -1, 0, 0.5, 1e39, 1e-46, 2**31, 2**63, _LARGE, True, "1", "", (1,))
_BY_TYPE = {
    bool: (0, 1.0, "True", "", (True,)),
    int: _NUMBERS,
    float: _NUMBERS,
    str: ("", "nothing", "../nothing", "back\\slash", "gs://bucket/nothing", "n" * 5000, "a\0b", 3, True, ("a",)),
}
_ENTRIES = {str: ("", "nothing", 3, None),
            float: (math.nan, math.inf, -math.inf, -1.0, 1e39, _LARGE, True, "1", None, ())}
# Values that cannot work although their kind is right.
_CANNOT_WORK = {
    "data.crop_padding": (10**8,), "embedding.embed_dim": (10**9,), "epochs": (2**62,),
    "model.name": ("wide_resnet99999999994_10", "wide_resnet34_100000"), "model.mean": ((125.3,),),
    "optimizer.drop_epochs": ((0.5,), (-1,)), "optimizer.drop_factors": ((-0.1,),),
    "attack.num_steps": (2**31,), "validation.num_steps": (2**31,),
    # 1e-46 is 0 in float32, which the program computes in.
    "morel.temperature": (1e-30, 1e-46), "data.cutmix_alpha": (1e-46,), "attack.step_size": (1e-46,),
    "validation.step_size": (1e-46,),
}
# Numbers that the compiled programs never see, so that they need not fit float32.
_ON_HOST = ("checkpoint.every_seconds",)
# Fields of the same length: what the other one is then.
_COMPANIONS = {"optimizer.drop_epochs": ("optimizer.drop_factors", lambda n: (0.5,) * n),
               "optimizer.drop_factors": ("optimizer.drop_epochs", lambda n: tuple(range(1, n + 1))),
               "model.mean": ("model.std", lambda n: (0.5,) * n), "model.std": ("model.mean", lambda n: (0.5,) * n),
               "data.extra": ("data.extra_share", lambda n: 0.5)}
_SECONDS = 20


def base():
    """The campaign's config, whose fields are changed one at a time."""
    return load_file(CONFIGS / "smoke.py", "")


def generate(config):
    """[(field, value)]: every hostile value of every field."""
    pairs = []
    for field, default in flatten(config).items():
        if isinstance(default, tuple):
            kind = str if default and isinstance(default[0], str) else float
            length = max(1, len(default))
            values = [(), default + default[:1] if default else (0.5,) * 1000, 0.5, "nothing"]
            values += [(*default[:length - 1], entry) for entry in _ENTRIES[kind]]
        else:
            values = [value for value in _BY_TYPE[type(default)]
                      if type(value) is not type(default) or value != default]
        pairs += [(field, value) for value in (*values, *_CANNOT_WORK.get(field, ()), *_OF_ANY)]
    return pairs


def choose(pairs, number, seed):
    """``number`` of the pairs, fields in turn, in an order drawn with ``seed``."""
    draw, by_field = random.Random(seed), {}
    for field, value in pairs:
        by_field.setdefault(field, []).append(value)
    for values in by_field.values():
        draw.shuffle(values)
    fields, chosen = list(by_field), []
    draw.shuffle(fields)
    while len(chosen) < number and any(by_field.values()):
        chosen += [(field, by_field[field].pop()) for field in fields if by_field[field]]
    return chosen[:number]


def is_nonsense(field, value, default):
    """Whether no program can take this value, whatever its documentation says."""
    if any(type(value) is type(other) and value == other for other in _CANNOT_WORK.get(field, ())):
        return True
    if isinstance(default, tuple):
        if not isinstance(value, tuple):
            return True
        kind = default[0] if default else 0.5
        return any(is_nonsense("", entry, kind) for entry in value)
    if isinstance(default, (bool, str)):
        return type(value) is not type(default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    if isinstance(default, int):
        return not isinstance(value, int) or abs(value) >= 2**63
    if field in _ON_HOST:
        return not abs(value) < _LARGE or not math.isfinite(value)
    with np.errstate(over="ignore"):
        return abs(value) > 1e300 or not np.isfinite(np.float32(value))


class _Checked(BaseException):
    """Everything before compiling is done."""


class _Hung(BaseException):
    pass


def _hang(*_):
    raise _Hung


def _check(values):
    """All checks of a run, which end where its step would be compiled."""
    dry_run = importlib.import_module("morel_jax.targets.dry_run")
    config = ml_collections.ConfigDict(values).lock()
    with mock.patch.object(dry_run, "lower_step", side_effect=_Checked):
        try:
            dry_run.dry_run(config)
        except _Checked:
            if config.data.name == base().data.name:  # Its images are at hand; of another, the network's business.
                builders.dataset(config)


def _with(field, value):
    values = base().to_dict()
    changes = {field: value}
    if field in _COMPANIONS:
        other, companion = _COMPANIONS[field]
        changes[other] = companion(len(value) if isinstance(value, tuple) else 1)
        if field == "data.extra" and not value:
            changes[other] = 0.0
    for name, one in changes.items():
        section, _, last = name.rpartition(".")
        (values[section] if section else values)[last] = one
    return values


def _names(field, value):
    """By what a message may name the fault: the field, the one that goes with it, or the value."""
    names = [name.rpartition(".")[2] for name in (field, *_COMPANIONS.get(field, ())[:1])]
    return [*names, repr(value), *([value] if isinstance(value, str) and value else [])]


def judge(field, value):
    """(outcome, message) of one value: ``refused``, ``accepted``, or what is wrong."""
    try:
        _check(_with(field, value))
    except (ValueError, OSError, ImportError) as error:  # What the commands print as one line.
        message = str(error)
        if len(message.splitlines()) != 1:
            return "more than one line", message
        if not any(name in message for name in _names(field, value)):
            return "names no field", message
        return "refused", message
    except _Hung:
        return "hang", ""
    except BaseException as error:  # What a user sees as a traceback.
        return "traceback", f"{type(error).__name__}: {error}"[:500]
    nonsense = is_nonsense(field, value, flatten(base())[field])
    return ("nonsense accepted" if nonsense else "accepted"), ""


def work(pairs):
    """In the child: a line of JSON for each pair."""
    signal.signal(signal.SIGALRM, _hang)
    for field, value in pairs:
        signal.alarm(_SECONDS)
        outcome, message = judge(field, value)
        signal.alarm(0)
        print(json.dumps({"field": field, "value": repr(value)[:200] if value != _LARGE else "10**400",
                          "outcome": outcome, "message": message[:500]}), flush=True)


def cases(children, folder, pairs):
    """Judges the pairs, many in one process: list of dicts of plain values."""
    results, left = [], list(pairs)
    while left:
        ended = children.start(work, (left,), folder).wait(_SECONDS * 5 + len(left))
        lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
        results += lines
        left = left[len(lines):]
        if left:  # The process died of a value, or hung where no alarm reaches it.
            field, value = left.pop(0)
            results.append({"field": field, "value": repr(value)[:200], "outcome": "hang" if ended.hung else "crash",
                            "message": ended.stderr[-500:]})
    return results
