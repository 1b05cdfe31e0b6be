"""AutoAttack, the ensemble by which robustness is compared (Croce and Hein, arXiv:2003.01690)."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.apgd import APGD, APGDTargeted
from morel_jax.attacks.fab import FAB, FABTargeted
from morel_jax.attacks.guarded_square import GuardedSquare
from morel_jax.attacks.iterative import IterativeAttack, select
from morel_jax.attacks.keys import example_keys, fold_in_name
from morel_jax.attacks.malt import MALT
from morel_jax.attacks.norms import norm
from morel_jax.attacks.pma import PMA
from morel_jax.attacks.square import Square
from morel_jax.attacks.types import Images, KeyOrKeys, Labels, LogitsFn

# The published versions, and `fast`, which is ours: attacks in their order; each sees what earlier ones left. A name
# says which attack it is and how many restarts it has, so the same name is the same attack everywhere.
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-cex5", "apgd-dlrx5", "fabx5", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce-eot20", "apgd-dlr-eot20"),
    "fast": ("pma", "malt3", "square-guarded"),
}

# Every attack of every version, (epsilon, norm) -> attack.
MEMBERS: dict[str, Callable[[jax.typing.ArrayLike, str], IterativeAttack]] = {
    "apgd-ce": lambda epsilon, norm: APGD(epsilon, norm=norm),
    "apgd-dlr": lambda epsilon, norm: APGD(epsilon, loss="dlr", norm=norm),
    "apgd-cex5": lambda epsilon, norm: APGD(epsilon, norm=norm, num_restarts=5),
    "apgd-dlrx5": lambda epsilon, norm: APGD(epsilon, loss="dlr", norm=norm, num_restarts=5),
    "apgd-ce-eot20": lambda epsilon, norm: APGD(epsilon, norm=norm, eot=20),
    "apgd-dlr-eot20": lambda epsilon, norm: APGD(epsilon, loss="dlr", norm=norm, eot=20),
    "apgd-t": lambda epsilon, norm: APGDTargeted(epsilon, norm=norm),
    "fab": lambda epsilon, norm: FAB(epsilon, norm=norm),
    "fabx5": lambda epsilon, norm: FAB(epsilon, norm=norm, num_restarts=5),
    "fab-t": lambda epsilon, norm: FABTargeted(epsilon, norm=norm),
    "square": lambda epsilon, norm: Square(epsilon, norm=norm),
    "pma": lambda epsilon, norm: PMA(epsilon, norm=norm),
    "malt3": lambda epsilon, norm: MALT(epsilon, norm=norm, num_targets=3),
    "square-guarded": lambda epsilon, norm: GuardedSquare(epsilon, norm=norm),
}


def member(name: str, epsilon: jax.typing.ArrayLike, norm: str = "linf") -> IterativeAttack:
    """The attack that ``name`` stands for, with the published hyper-parameters.

    Raises:
        ValueError: an unknown name.
    """
    if name not in MEMBERS:
        raise ValueError(f"AutoAttack's attacks are {', '.join(MEMBERS)}; got {name!r}.")
    return MEMBERS[name](epsilon, norm)


@struct.dataclass
class AutoAttack:
    """Several attacks, each run on what earlier ones left unbroken.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        version: ``standard`` (APGD-CE, APGD-T, FAB-T, Square), ``plus`` (APGD-CE, APGD-DLR and FAB with five restarts,
            Square, APGD-T, FAB-T), ``rand`` (APGD-CE and APGD-DLR, gradients averaged over 20 draws, for networks that
            answer at random and are called as ``logits_fn(x, keys)``), ``fast`` (not published: PMA, MALT on 3 targets,
            :class:`GuardedSquare`) or ``custom``; static.
        norm: ``linf`` or ``l2``; static.
        attacks: names in the order in which they run, for version ``custom`` alone; static.

    Reference: Croce and Hein, arXiv:2003.01690, and the versions of their code.
    """
    epsilon: jax.typing.ArrayLike
    version: str = struct.field(pytree_node=False, default="standard")
    norm: str = struct.field(pytree_node=False, default="linf")
    attacks: tuple[str, ...] = struct.field(pytree_node=False, default=())

    def members(self) -> dict[str, IterativeAttack]:
        """The attacks by name, in the order in which they run.

        Raises:
            ValueError: an unknown version, norm or attack, ``attacks`` without version ``custom``, or the reverse.
        """
        norm(self.norm)
        if self.version == "custom":
            if not self.attacks:
                raise ValueError("attacks must name at least one attack for version 'custom'; got none.")
            names = self.attacks
        else:
            if self.version not in VERSIONS:
                raise ValueError(f"version must be one of {', '.join(VERSIONS)}, custom; got {self.version!r}.")
            if self.attacks:
                raise ValueError(f"attacks are for version 'custom' alone; got {self.attacks} with {self.version!r}.")
            names = VERSIONS[self.version]
        return {name: member(name, self.epsilon, self.norm) for name in names}

    def __call__(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels) -> Images:
        """Adversarial images.

        Args:
            key: one key, or keys[n], one per example; each attack folds its name into it.
            x: images in [0, 1].

        Returns:
            Images in the ball and in [0, 1]; an example that no attack breaks is returned unchanged.

        Raises:
            ValueError: see :meth:`members`; or too few classes for one of them.
        """
        keys = example_keys(key, x.shape[0])
        broken, x_adv = jnp.zeros(x.shape[0], bool), x
        for name, attack in self.members().items():
            state = attack.run(logits_fn, fold_in_name(keys, name), x, y, skip=broken)
            fresh = state.found & ~broken
            broken, x_adv = broken | fresh, select(fresh, state.x_adv, x_adv)
        return x_adv
