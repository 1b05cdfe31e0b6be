"""What an evaluation runs: the attacks that the caller named, built for one threat model."""
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import attacks, checks
from morel_jax.attack_names import ENSEMBLES, GROUPS, TRANSFER, find, known
from morel_jax.attacks.autoattack import VERSIONS
from morel_jax.attacks.iterative import IterativeAttack
from morel_jax.attacks.nearest import NearestAttack
from morel_jax.attacks.norms import largest_radius
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.pytree import as_pytree
from morel_jax.attacks.types import Images, Logits, OwnLoss
from morel_jax.configuration import VARIANTS
from morel_jax.evaluation.pool import OneCall

# A name is a column of a CSV file and the name of files.
_CUSTOM_NAME = re.compile(r"\w[\w.+-]*")


@dataclasses.dataclass(frozen=True)
class Threat:
    """The threat model, and the numbers that are not in the attacks' names.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        step_size: of PGD, same units.
        norm: ``linf`` or ``l2``.
        variant: of CW-Linf, ``paper`` (confidence 1, projected into the ball) or ``reference`` (confidence 0, not
            bounded).
        loss: the caller's own, which attacks of a name with ``-loss`` climb; None: there is none.
    """
    epsilon: float
    step_size: float
    norm: str = "linf"
    variant: str = "paper"
    loss: OwnLoss | None = None


def checked_threat(epsilon: float, step_size: float | None, norm: str, variant: str, image_shape: Sequence[int],
                   loss: OwnLoss | None = None) -> Threat:
    """A :class:`Threat` for images of shape (h, w, c); a step of None is epsilon / 10, as in the paper.

    Raises:
        ValueError: an unknown norm or variant, a loss that is no function, or a radius or step that is not in
            [1e-6, what the box allows].
    """
    known_norm(norm)
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
    largest, why = largest_radius(norm, image_shape), f", the whole box in {norm}"
    epsilon = checks.radius("epsilon", epsilon, largest, why)
    step_size = epsilon / 10 if step_size is None else checks.radius("step_size", step_size, largest, why)
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function of logits and labels; got {loss!r}.")
    return Threat(epsilon, step_size, norm, variant, loss)


@dataclasses.dataclass(frozen=True)
class SuiteAttack:
    """An attack as an evaluation runs it.

    Attributes:
        name: of its rows in the ledger.
        attack: an IterativeAttack.
        radius: the ball that its images must stay in; infinite where there is none.
        on_surrogate: whether it is crafted on the surrogate.
        minimal: whether it looks for the nearest adversarial image; ``radius`` then is the distance up to which that
            breaks an example.
    """
    name: str
    attack: Any
    radius: float
    on_surrogate: bool = False
    minimal: bool = False


def build_suite(names: Sequence[str | tuple[str, Callable]], threat: Threat,
                classes: float = np.inf, at_random: bool = False,
                ) -> tuple[dict[str, tuple[str, ...]], dict[str, SuiteAttack]]:
    """The attacks that ``names`` stand for.

    Args:
        names: names, which :func:`morel_jax.attack_names.known` explains, or pairs of a name and a custom attack,
            called as ``attack(logits_fn, keys, x, y)`` -> ``x_adv``.
        classes: of the network.
        at_random: whether it answers at random, and is called as ``logits_fn(x, keys)``.

    Returns:
        (columns, attacks): {column of the result: names of its attacks}, several for an ensemble; and
        {name: :class:`SuiteAttack`}, in the order in which they run.

    Raises:
        ValueError: no name, an unknown one, one given twice, an attack that does not know the norm or needs more
            classes, or more steps than can be counted.
    """
    if isinstance(names, str):
        raise ValueError(f"attacks must be a list of names; got the text {names!r}: write [{names!r}].")
    if not names:
        raise ValueError("attacks must name at least one attack; got none.")
    columns, custom, given = {}, {}, set()
    for name in names:
        if not isinstance(name, str):
            name, custom[name] = _custom(name)
        if name in given:
            raise ValueError(f"attacks must name each attack once; got {name!r} twice.")
        given.add(name)
        if name in ENSEMBLES:
            columns[name] = VERSIONS[ENSEMBLES[name][1]]
        else:
            columns |= {one: (one,) for one in (GROUPS[name][1] if name in GROUPS else [name])}
    # Ensembles last: they reuse rows of members that ran on their own.
    order = [one for members in sorted(columns.values(), key=len) for one in members]
    return columns, {name: _build(name, threat, classes, at_random, custom.get(name)) for name in order}


def _custom(pair: Any) -> tuple[str, Callable]:
    """The name and the attack of a caller's pair, checked."""
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and callable(pair[1])):
        raise ValueError(f"attacks must be names, or pairs of a name and an attack; got {pair!r}.")
    name, attack = pair
    if not _CUSTOM_NAME.fullmatch(name):
        raise ValueError(f"an attack's name must consist of letters, digits and . _ + -; got {name!r}.")
    if name.startswith(TRANSFER) or name in (*GROUPS, *ENSEMBLES) or find(name):
        raise ValueError(f"a custom attack needs a name of its own; got {name!r}, which means another.")
    return name, as_pytree(attack)


def _build(name: str, threat: Threat, classes: float, at_random: bool, custom: Callable | None) -> SuiteAttack:
    """The :class:`SuiteAttack` of a name, or of the caller's own attack ``custom``."""
    if custom is None:
        attack, radius = _named(name.removeprefix(TRANSFER), threat, classes)
    else:
        attack, radius = custom, threat.epsilon
    if not isinstance(attack, IterativeAttack):
        passes = math.prod(getattr(attack, name, 1) for name in ("num_steps", "num_restarts", "eot"))
        attack = OneCall(attack, passes, at_random and not name.startswith(TRANSFER))
    minimal = isinstance(attack, NearestAttack) and not attack.bounded
    return SuiteAttack(name, attack, radius, name.startswith(TRANSFER), minimal)


def _named(name: str, threat: Threat, classes: float) -> tuple[Any, float]:
    """(attack, radius of the ball that its images must stay in)."""
    if (found := find(name)) is None:
        raise ValueError(f"attacks must be among {', '.join(known())}; got {name!r}.")
    entry, numbers = found
    if threat.norm not in entry.norms:
        raise ValueError(f"attack {name} is for norm {' or '.join(entry.norms)}; got {threat.norm!r}.")
    if classes < entry.fewest_classes:
        raise ValueError(f"attack {name} needs a network with at least {entry.fewest_classes} classes; got {classes}.")
    return entry.build(attacks, threat, *numbers), entry.radius(threat)


def check_attacks(suite: Mapping[str, SuiteAttack], image_shape: Sequence[int], classes: int,
                  at_random: bool = False) -> None:
    """Checks that attacks can work on a network; found by tracing a step of each.

    Args:
        image_shape: (h, w, c).
        at_random: as for :func:`build_suite`.

    Raises:
        ValueError: one cannot; the message names it.
    """
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    image, label = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)

    def step(keys: Any, x: Images, y: Any, one: SuiteAttack) -> Any:
        expects_keys = at_random and not one.on_surrogate

        def logits_fn(x: Images, *keys: Any) -> Logits:
            if expects_keys and not keys:
                raise ValueError("it asks the network once for each gradient, and this one answers at random; use "
                                 "autoattack-rand, or attacks that average over draws, such as pgd20-eot20.")
            if keys and not expects_keys:
                raise ValueError("it averages over draws, and the network that it asks answers the same each time; use "
                                 "it without -eot and a number.")
            return jnp.zeros((x.shape[0], classes), x.dtype)

        return one.attack.advance(logits_fn, keys, x, y, one.attack.first(logits_fn, keys, x, y))

    for one in suite.values():
        try:
            jax.eval_shape(lambda keys, x, y, one=one: step(keys, x, y, one), keys, image, label)
        except ValueError as error:
            raise ValueError(f"attack {one.name}, on {classes} classes: {error}") from error
