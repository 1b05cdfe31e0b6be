"""The attacks that an evaluation knows by name.

A new one is one entry here, from which ``--attacks``, its help and the table in the docs are made. Nothing here imports
JAX, so that ``--help`` answers at once; builders are given the package ``morel_jax.attacks``.
"""
import dataclasses
import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Passes through the network are counted in int32.
_MOST_PASSES = 2**31 - 1
# Before a name: the attack is crafted on the surrogate.
TRANSFER = "transfer-"
# After a name: its gradients are averaged over that many draws, two or more, of a network that answers at random.
_EOT = re.compile(r"(.+)-eot([1-9]\d+|[2-9])")


@dataclasses.dataclass(frozen=True)
class NamedAttack:
    """An attack, or a family of them.

    Attributes:
        name: ``<word>`` in it stands for a whole number of at least 1.
        help: one line.
        build: (morel_jax.attacks, :class:`~morel_jax.evaluation.suite.Threat`, the name's numbers ...) -> attack.
        norms: in which it works.
        fewest_classes: of the network.
        radius: Threat -> radius of the ball that its images must stay in; may be infinite.
    """
    name: str
    help: str
    build: Callable
    norms: tuple[str, ...] = ("linf", "l2")
    fewest_classes: int = 2
    radius: Callable = lambda threat: threat.epsilon


def _cw(attacks: ModuleType, threat: Any) -> Any:
    if threat.variant == "reference":
        return attacks.CWLinf(confidence=0.0, initial_const=15.0)
    return attacks.CWLinf(confidence=1.0, initial_const=15.0, epsilon=threat.epsilon)


def _pgd(attacks: ModuleType, threat: Any, steps: int, restarts: int | None = None, loss: Any = "ce") -> Any:
    return attacks.PGD(threat.epsilon, threat.step_size, num_steps=steps, num_restarts=restarts or 1,
                       start="uniform" if restarts else "clean", norm=threat.norm, loss=loss)


def _own(threat: Any) -> Callable:
    if threat.loss is None:
        raise ValueError("attacks of a name with -loss climb a loss of your own, --loss (from Python loss=); got none.")
    return threat.loss


def _fmn(kind: str, steps: int) -> Callable:
    # The first step's length is in L2 whatever the norm. 1 leaves FMN short in Linf, where all pixels move.
    return lambda attacks, threat: getattr(attacks, kind)(steps, norm=threat.norm,
                                                          step_size=10.0 if threat.norm == "linf" else 1.0)


def _member(name: str, text: str, fewest_classes: int = 2) -> NamedAttack:
    """An attack of AutoAttack, with the published numbers."""
    return NamedAttack(name, text, lambda attacks, threat: attacks.autoattack.member(
        name, threat.epsilon, threat.norm), fewest_classes=fewest_classes)


ATTACKS = (
    NamedAttack("fgsm", "one step of length epsilon",
                lambda attacks, threat: attacks.FGSM(threat.epsilon, threat.norm)),
    NamedAttack("pgd<steps>", "from the clean image, in steps of epsilon / 10 (the command: of the config's "
                "validation.step_size); its last point counts", _pgd),
    NamedAttack("pgd<steps>x<restarts>", "PGD from that many random points", _pgd),
    NamedAttack("pgd<steps>-loss", "pgd<steps> on the loss in --loss", lambda attacks, threat, steps: _pgd(
        attacks, threat, steps, loss=_own(threat))),
    NamedAttack("pgd<steps>x<restarts>-loss", "pgd<steps>x<restarts> on the loss in --loss",
                lambda attacks, threat, steps, restarts: _pgd(attacks, threat, steps, restarts, _own(threat))),
    NamedAttack("apgd-loss", "Auto-PGD on the loss in --loss, 100 steps", lambda attacks, threat: attacks.APGD(
        threat.epsilon, loss=_own(threat), norm=threat.norm)),
    NamedAttack("cw", "CW-Linf as ART has it, 10 iterations, constant 15; variant paper: confidence 1, projected into "
                "the ball; variant reference: confidence 0, no ball", _cw, ("linf",),
                radius=lambda threat: math.inf if threat.variant == "reference" else threat.epsilon),
    _member("apgd-ce", "Auto-PGD on the cross-entropy, 100 steps"),
    _member("apgd-cex5", "apgd-ce with 5 restarts"),
    _member("apgd-dlr", "Auto-PGD on the DLR loss, 100 steps", 3),
    _member("apgd-dlrx5", "apgd-dlr with 5 restarts", 3),
    _member("apgd-t", "Auto-PGD on the targeted DLR loss, at most 9 target classes", 4),
    _member("fab", "FAB, 100 steps"),
    _member("fabx5", "fab with 5 restarts"),
    _member("fab-t", "targeted FAB, at most 9 target classes"),
    _member("square", "Square, 5000 queries, no gradient"),
    _member("square-guarded", "Square, 5000 queries; 500 where gradient steps get as far as it does"),
    _member("pma", "PMA: two ascents of the probability margin, 100 steps each"),
    NamedAttack("malt<targets>", "MALT: Auto-PGD on the targeted DLR loss towards that many classes, those of the "
                "nearest linearised boundaries", lambda attacks, threat, targets: attacks.MALT(
                    threat.epsilon, norm=threat.norm, num_targets=targets), fewest_classes=4),
    NamedAttack("hopskipjump", "HopSkipJump, 5000 queries, from the network's answers alone: no gradient, no logits",
                lambda attacks, threat: attacks.HopSkipJump(threat.epsilon, norm=threat.norm)),
    NamedAttack("fmn", "nearest image: FMN, 100 steps", _fmn("FMN", 100)),
    NamedAttack("fmn-t", "nearest image: targeted FMN, at most 9 target classes, 200 steps each",
                _fmn("FMNTargeted", 200)),
    NamedAttack("fab-t-minimal", "nearest image: fab-t, continued to its end",
                lambda attacks, threat: attacks.FABTargeted(None, norm=threat.norm, thorough=True)),
    NamedAttack("ddn", "nearest image in L2: DDN, 100 steps", lambda attacks, threat: attacks.DDN(), ("l2",)),
    NamedAttack("cw-l2", "nearest image in L2: CW-L2, 9 searches of at most 1000 steps",
                lambda attacks, threat: attacks.CWL2(), ("l2",)),
)

# The paper's four (section 4.2), over which it averages.
PAPER = ("fgsm", "pgd20", "pgd100", "cw")
# Names for several attacks: {name: (one line of help, the attacks)}.
GROUPS = {
    "paper": (f"{', '.join(PAPER)}, and the paper's Avg-Robust over them", PAPER),
    "minimal": ("fmn-t and fab-t-minimal; robust accuracy at every radius from the nearer of their images",
                ("fmn-t", "fab-t-minimal")),
    "transfer": ("the paper's four, crafted on the surrogate", tuple(TRANSFER + name for name in PAPER)),
}
# Names for ensembles, whose members attack only what earlier ones left: {name: (help, AutoAttack's version)}.
ENSEMBLES = {
    "autoattack": ("AutoAttack, standard: apgd-ce, apgd-t, fab-t and square, each on what the ones before it left",
                   "standard"),
    "fast": ("pma, malt3 and square-guarded, each on what the ones before it left: a first verdict, for less than "
             "autoattack takes", "fast"),
    "autoattack-rand": ("AutoAttack, rand, of networks that answer at random: apgd-ce-eot20 and apgd-dlr-eot20",
                        "rand"),
    "autoattack-plus": ("AutoAttack, plus: apgd-cex5, apgd-dlrx5, fabx5, square, apgd-t and fab-t", "plus"),
}


def find(name: str) -> tuple[NamedAttack, list[int]] | None:
    """(entry, list of the numbers in ``name``), or None if no entry has the name.

    Raises:
        ValueError: the product of the numbers and draws, the passes through the network, cannot be counted.
    """
    averaged = _EOT.fullmatch(name)
    plain, *draws = averaged.groups() if averaged else (name,)
    for entry in ATTACKS:
        if found := re.fullmatch(re.sub(r"<\w+>", r"([1-9]\\d*)", entry.name), plain):
            # Python refuses to read thousands of digits.
            *numbers, eot = [int(digits[:11]) for digits in (*found.groups(), *(draws or ["1"]))]
            if math.prod(numbers) * eot > _MOST_PASSES:
                raise ValueError(f"an attack's steps times restarts{' times draws' if draws else ''} must be at most "
                                 f"{_MOST_PASSES}; got {name[:40]}.")
            return (_averaging(entry, eot) if draws else entry), numbers
    return None


def _averaging(entry: NamedAttack, eot: int) -> NamedAttack:
    """``entry`` with its gradients averaged over ``eot`` draws."""
    def build(attacks: ModuleType, threat: Any, *numbers: int) -> Any:
        attack = entry.build(attacks, threat, *numbers)
        if not hasattr(attack, "eot"):
            raise ValueError(f"-eot{eot} must follow the name of an attack that averages gradients, fgsm, pgd, apgd or "
                             f"malt; got {entry.name}.")
        return dataclasses.replace(attack, eot=eot)

    return dataclasses.replace(entry, build=build)


def known() -> dict[str, str]:
    """{name: one line of help} of all names that an evaluation takes."""
    return ({name: text for name, (text, _) in (GROUPS | ENSEMBLES).items()}
            | {entry.name: entry.help for entry in ATTACKS}
            | {f"{TRANSFER}<name>": "any of these attacks, crafted on the surrogate",
               "<name>-eot<draws>": "fgsm, pgd, apgd or malt on a network that answers at random: each gradient is "
                                    "the mean over that many draws, two or more"})
