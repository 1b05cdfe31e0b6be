"""Attacks: frozen pytrees called as ``attack(logits_fn, key, x, y)``, returning adversarial images.

An attack knows nothing of Flax, normalisation or BatchNorm: ``logits_fn`` maps images float32[n, h, w, c] in [0, 1] to
logits float[n, classes] and closes over the rest.
"""
from morel_jax.attacks.apgd import APGD, APGDTargeted
from morel_jax.attacks.autoattack import AutoAttack
from morel_jax.attacks.cw import CWLinf
from morel_jax.attacks.cw_l2 import CWL2
from morel_jax.attacks.fab import FAB, FABTargeted
from morel_jax.attacks.fgsm import FGSM
from morel_jax.attacks.fmn import DDN, FMN, FMNTargeted
from morel_jax.attacks.guarded_square import GuardedSquare
from morel_jax.attacks.hopskipjump import HopSkipJump
from morel_jax.attacks.iterative import IterativeAttack
from morel_jax.attacks.malt import MALT
from morel_jax.attacks.nearest import NearestAttack
from morel_jax.attacks.pgd import PGD
from morel_jax.attacks.pma import PMA
from morel_jax.attacks.square import Square
from morel_jax.attacks.types import LogitsFn

__all__ = ["APGD", "CWL2", "DDN", "FAB", "FGSM", "FMN", "MALT", "PGD", "PMA", "APGDTargeted", "AutoAttack", "CWLinf",
           "FABTargeted", "FMNTargeted", "GuardedSquare", "HopSkipJump", "IterativeAttack", "LogitsFn", "NearestAttack",
           "Square"]
