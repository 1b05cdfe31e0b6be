"""The attacks that an evaluation knows by name.

A new one is one entry here: ``--attacks``, its help and the table in the docs are read from these. Nothing here imports
JAX, so that ``--help`` answers at once; builders are handed the package ``morel_jax.attacks``.
"""
import dataclasses
import functools
import math
import re
from collections.abc import Callable

# Passes through the network are counted in 32 bits.
_MOST_PASSES = 2**31 - 1
# Before a name: the attack is crafted on the surrogate.
TRANSFER = "transfer-"


@dataclasses.dataclass(frozen=True)
class NamedAttack:
    """An attack, or a family of them, with one name.

    Attributes:
        name: ``<word>`` in it stands for a whole number of at least 1.
        help: one line.
        build: (morel_jax.attacks, :class:`~morel_jax.evaluation.suite.Threat`, the name's numbers ...) -> attack.
        norms: the norms it works in.
        fewest_classes: that the network may have.
        radius: Threat -> the radius that its images must keep to; infinity: they need not.
    """
    name: str
    help: str
    build: Callable
    norms: tuple[str, ...] = ("linf", "l2")
    fewest_classes: int = 2
    radius: Callable = lambda threat: threat.epsilon

    def numbers(self, name):
        """The numbers in ``name`` if it is one of this entry's, else None.

        Raises:
            ValueError: their product, the passes through the network, cannot be counted.
        """
        found = re.fullmatch(re.sub(r"<\w+>", r"([1-9]\\d*)", self.name), name)
        if found is None:
            return None
        numbers = [int(digits[:11]) for digits in found.groups()]  # Python refuses to read thousands of digits.
        if math.prod(numbers) > _MOST_PASSES:
            raise ValueError(f"an attack's steps times restarts must be at most {_MOST_PASSES}; got {name[:40]}.")
        return numbers


def _cw(attacks, threat):  # Paper, 4.2: 10 iterations, rate 0.01, confidence 1, constant 15.
    if threat.variant == "reference":
        return attacks.CWLinf(confidence=0.0, initial_const=15.0)
    return attacks.CWLinf(confidence=1.0, initial_const=15.0, epsilon=threat.epsilon)


def _pgd(attacks, threat, steps, restarts=None):
    return attacks.PGD(threat.epsilon, threat.step_size, num_steps=steps, num_restarts=restarts or 1,
                       start="uniform" if restarts else "clean")


def _autoattack(name, help_text, fewest_classes=2):
    return NamedAttack(name, help_text, lambda attacks, threat: attacks.autoattack.member(
        name, threat.epsilon, threat.norm), fewest_classes=fewest_classes)


ATTACKS = (
    NamedAttack("fgsm", "one step of length epsilon", lambda attacks, threat: attacks.FGSM(threat.epsilon), ("linf",)),
    NamedAttack("pgd<steps>", "from the clean image, in steps of epsilon / 10 (the command: of the config's "
                "validation.step_size); its last point counts", _pgd, ("linf",)),
    NamedAttack("pgd<steps>x<restarts>", "the same from random points, as often as restarts says", _pgd, ("linf",)),
    NamedAttack("cw", "CW-Linf as ART has it, 10 iterations, constant 15; variant paper: confidence 1, projected into "
                "the ball; variant reference: confidence 0, no ball", _cw, ("linf",),
                radius=lambda threat: math.inf if threat.variant == "reference" else threat.epsilon),
    _autoattack("apgd-ce", "Auto-PGD on the cross-entropy, 100 steps"),
    _autoattack("apgd-cex5", "the same with 5 restarts"),
    _autoattack("apgd-dlr", "Auto-PGD on the DLR loss, 100 steps", 3),
    _autoattack("apgd-dlrx5", "the same with 5 restarts", 3),
    _autoattack("apgd-t", "Auto-PGD on the targeted DLR loss, up to 9 target classes", 4),
    _autoattack("fab", "FAB, 100 steps"),
    _autoattack("fabx5", "the same with 5 restarts"),
    _autoattack("fab-t", "targeted FAB, up to 9 target classes"),
    _autoattack("square", "Square, 5000 queries and no gradient"),
)


@dataclasses.dataclass(frozen=True)
class Group:
    """Several attacks under one name.

    Attributes:
        help: one line.
        members: morel_jax.attacks -> their names, in the order of their running.
        is_ensemble: whether they are one attack, each member run on what the ones before it left unbroken.
    """
    help: str
    members: Callable
    is_ensemble: bool = False


# The paper's four (section 4.2), over which it averages.
PAPER = ("fgsm", "pgd20", "pgd100", "cw")


def _version(name):
    return lambda attacks: attacks.autoattack.VERSIONS[name]


GROUPS = {
    "paper": Group(f"{', '.join(PAPER)}, and the paper's Avg-Robust over them", lambda attacks: PAPER),
    "autoattack": Group("AutoAttack's standard version: each member is run on what the ones before it left",
                        _version("standard"), is_ensemble=True),
    "autoattack-plus": Group("its version plus", _version("plus"), is_ensemble=True),
    "transfer": Group("the paper's four, crafted on the surrogate", lambda attacks: [TRANSFER + name for name in PAPER]),
}


def find(name):
    """(entry, the numbers in ``name``), or None for a name that is no single attack's.

    Raises:
        ValueError: see :meth:`NamedAttack.numbers`.
    """
    for entry in ATTACKS:
        if (numbers := entry.numbers(name)) is not None:
            return entry, numbers
    return None


@functools.cache
def known():
    """{name: one line of help} of all that an evaluation may be given, groups first."""
    return ({name: group.help for name, group in GROUPS.items()} | {entry.name: entry.help for entry in ATTACKS}
            | {f"{TRANSFER}<name>": "any one of these, crafted on the surrogate"})
