"""Attacks by name, with the settings that the paper and the field give them."""
import dataclasses
import math
import re
from typing import Any

import numpy as np

from morel_jax import checks
from morel_jax.attacks.autoattack import MEMBERS, VERSIONS, member
from morel_jax.attacks.cw import CWLinf
from morel_jax.attacks.fgsm import FGSM
from morel_jax.attacks.iterative import IterativeAttack
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.pgd import PGD
from morel_jax.attacks.pytree import as_pytree
from morel_jax.configuration import VARIANTS
from morel_jax.evaluation.pool import OneCall

# The paper's four (section 4.2), over which it averages.
PAPER = ("fgsm", "pgd20", "pgd100", "cw")
_PREFIX = "transfer-"
_PGD = re.compile(r"pgd([1-9]\d*)(?:x([1-9]\d*))?")
# Passes through the network are counted in 32 bits.
_MOST_PASSES = 2**31 - 1
# A name is a column of a CSV file and the name of files.
_OWN_NAME = re.compile(r"\w[\w.+-]*")
# AutoAttack's versions as names in --attacks.
_ENSEMBLES = {"autoattack": "standard", "autoattack-plus": "plus"}


@dataclasses.dataclass(frozen=True)
class Threat:
    """What attacks may do, and the numbers that are not in their names.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        step_size: of PGD.
        norm: ``linf`` or ``l2``.
        variant: ``paper`` (CW-Linf with confidence 1, projected into the ball) or ``reference`` (confidence 0, not
            bounded).
    """
    epsilon: float
    step_size: float
    norm: str = "linf"
    variant: str = "paper"


def largest_epsilon(shape, norm_name):
    """Radius at which the ball around any image of ``shape`` (h, w, c) holds the whole box."""
    return 1.0 if norm_name == "linf" else float(np.sqrt(np.prod(shape)))


def checked_threat(epsilon, step_size, norm, variant, image_shape):
    """A :class:`Threat`, its numbers checked.

    Args:
        epsilon, step_size, norm, variant: as there; a step of None is epsilon / 10, as in the paper.
        image_shape: (h, w, c).

    Raises:
        ValueError: an unknown norm or variant, or a radius or step that is no number from 1e-6 to what the
            box allows.
    """
    known_norm(norm)
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
    largest, why = largest_epsilon(image_shape, norm), f", the whole box in {norm}"
    epsilon = checks.radius("epsilon", epsilon, largest, why)
    step_size = epsilon / 10 if step_size is None else checks.radius("step_size", step_size, largest, why)
    return Threat(epsilon, step_size, norm, variant)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One attack of an evaluation.

    Attributes:
        name: under which its rows stand in the ledger.
        attack: an IterativeAttack.
        radius: what the judge allows it.
        transfer: whether it is crafted on the surrogate.
    """
    name: str
    attack: Any
    radius: float
    transfer: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """Columns of the result and what they take.

    Attributes:
        columns: {column: names of entries, each seeing what the ones before it left}; most have one.
        entries: {name: Entry}, in the order of their running.
    """
    columns: dict
    entries: dict


def plan(names, threat):
    """What to run for ``names``.

    Args:
        names: of ``fgsm``; ``pgd<steps>``, from the clean image, and ``pgd<steps>x<restarts>``, from random points;
            ``cw``; the members of AutoAttack (``apgd-ce``, ``apgd-dlr``, ``apgd-t``, ``fab``, ``fab-t``, ``square``;
            ``x5`` behind three of them); ``autoattack`` and ``autoattack-plus``; ``paper`` for the paper's four;
            ``transfer`` for the same four crafted on a surrogate, ``transfer-<name>`` for one. Or pairs of a name
            and one's own attack, called as ``attack(logits_fn, keys, x, y)`` -> ``x_adv``.
        threat: :class:`Threat`.

    Returns:
        :class:`Plan`.

    Raises:
        ValueError: no name, an unknown one, one given twice, one that does not know the norm, or more steps than can be
            counted.
    """
    if isinstance(names, str):
        raise ValueError(f"attacks must be a list of names; got the text {names!r}: write [{names!r}].")
    if not names:
        raise ValueError("attacks must name at least one attack; got none.")
    columns: dict = {}
    own, given = {}, set()
    for name in names:
        if not isinstance(name, str):
            name, own[name] = _own(name)
        if name in given:
            raise ValueError(f"attacks must name each attack once; got {name!r} twice.")
        given.add(name)
        if name == "paper":
            columns |= {one: (one,) for one in PAPER}
        elif name == "transfer":
            columns |= {_PREFIX + one: (_PREFIX + one,) for one in PAPER}
        elif name in _ENSEMBLES:
            columns[name] = VERSIONS[_ENSEMBLES[name]]
        else:
            columns[name] = (name,)
    # Entries of their own first: an ensemble's members then find rows of theirs in the ledger.
    order = [one for members in sorted(columns.values(), key=len) for one in members]
    return Plan(columns, {name: _entry(name, threat, own.get(name)) for name in order})


def _own(pair):
    """A name and an attack of the caller's, checked."""
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and callable(pair[1])):
        raise ValueError(f"attacks must be names, or pairs of a name and an attack; got {pair!r}.")
    name, attack = pair
    if not _OWN_NAME.fullmatch(name):
        raise ValueError(f"an attack's name must consist of letters, digits and . _ + -; got {name!r}.")
    if name.startswith(_PREFIX) or _is_known(name):
        raise ValueError(f"an attack of one's own needs a name of its own; got {name!r}, which means another.")
    return name, as_pytree(attack)


def _is_known(name):
    return name in ("paper", "transfer", *PAPER, *_ENSEMBLES, *MEMBERS, *VERSIONS["rand"]) or bool(_PGD.fullmatch(name))


def _entry(name, threat, own):
    transfer = name.startswith(_PREFIX)
    attack, radius = (own, threat.epsilon) if own is not None else _attack(name.removeprefix(_PREFIX), threat)
    if not isinstance(attack, IterativeAttack):
        attack = OneCall(attack, getattr(attack, "num_steps", 1) * getattr(attack, "num_restarts", 1))
    return Entry(name, attack, radius, transfer)


def _attack(name, threat):
    """(attack, radius that the judge allows)."""
    epsilon, pgd = threat.epsilon, _PGD.fullmatch(name)
    if name in ("fgsm", "cw") or pgd:
        if threat.norm != "linf":
            raise ValueError(f"attack {name} is for norm linf; got {threat.norm!r}.")
    if name == "fgsm":
        return FGSM(epsilon), epsilon
    if name == "cw":  # Paper, 4.2: 10 iterations, rate 0.01, confidence 1, constant 15.
        if threat.variant == "reference":
            return CWLinf(confidence=0.0, initial_const=15.0), math.inf
        return CWLinf(confidence=1.0, initial_const=15.0, epsilon=epsilon), epsilon
    if pgd:
        steps, restarts = pgd[1], pgd[2] or "1"
        if len(steps + restarts) > 20 or int(steps) * int(restarts) > _MOST_PASSES:
            raise ValueError(f"steps times restarts of PGD must be at most {_MOST_PASSES}; got attack {name[:40]}.")
        return PGD(epsilon, threat.step_size, num_steps=int(steps), start="uniform" if pgd[2] else "clean",
                   num_restarts=int(restarts)), epsilon
    if name in VERSIONS["rand"]:
        raise ValueError(f"attack {name} is for networks that answer at random; "
                         "call AutoAttack(version='rand') on those.")
    try:
        return member(name, epsilon, threat.norm), epsilon
    except ValueError:
        known = ("fgsm", "pgd<steps>", "pgd<steps>x<restarts>", "cw", *MEMBERS, "paper", *_ENSEMBLES, "transfer",
                 "transfer-<name>")
        raise ValueError(f"attacks must be among {', '.join(known)}; got {name!r}.") from None
