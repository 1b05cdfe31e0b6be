"""What is compared: networks, data, seeds and settings, as ``docs/study_plan.md`` registers them."""
import dataclasses
from typing import Any

import numpy as np
from scipy.stats import qmc

ARCHITECTURE = "convnet_small"
# Images of the training data that no run is trained on; `best` and the curves over epochs are theirs.
HOLDOUT = 500
SEEDS = tuple(range(12))
# Seeds of the screening and of its confirmation, which must not share one.
SCREENING_SEED, FRESH_SEEDS = 100, tuple(range(200, 212))
# How the two losses, or three with the cosine and the contrastive apart, become one step.
JOINED = ("conic", "weighted_sum", "smooth_tchebycheff", "mgda", "mgda_normalized", "pcgrad", "cagrad", "nash",
          "upgrad", "imtl_g", "famo")
OF_THREE = ("mgda_normalized", "nash", "upgrad", "imtl_g", "famo")


@dataclasses.dataclass(frozen=True)
class Regime:
    """Data and length of the training.

    Attributes:
        name: in files and on the page.
        images: trained on.
        stages: epochs after which networks are looked at; the last is the end.
        drops: epochs at which the rate falls to a tenth and to a hundredth.
    """
    name: str
    images: int
    stages: tuple[int, ...]
    drops: tuple[int, int]


# As many updates and as much work: 1,140 and 1,200 steps of 50 images.
SHORT = Regime("short", 9500, (2, 4, 6), (5, 6))
LONG = Regime("long", 1000, (10, 20, 30, 40, 50, 60), (41, 51))
# Fewer images, neither cropped nor flipped: networks fit them, and lose on others.
OVERFIT = Regime("overfit", 300, (40, 80, 120, 160, 200), (134, 168))
AS_THEY_ARE = (("data.crop_padding", 0), ("data.flip", False))
# A third of LONG, for one network after another.
BRIEF = Regime("brief", 1000, (20,), (14, 17))
# As many updates as LONG has at batch 50, at other batch sizes.
EIGHTS, LARGE = Regime("8 for 10 epochs", 1000, (10,), (8, 9)), Regime("128 for 150 epochs", 1000, (150,), (101, 126))


@dataclasses.dataclass(frozen=True)
class Group:
    """Networks that one program trains.

    Attributes:
        name: of its folder.
        regime: of its training.
        method: of the config.
        settings: for each network its seed and what else it has of its own.
        is_judged_by_fast: besides by PGD-20.
        stages: whether it is looked at on the way too.
        changes: of the config, for all.
    """
    name: str
    regime: Regime
    method: str
    settings: tuple[dict[str, Any], ...]
    is_judged_by_fast: bool = False
    stages: bool = False
    changes: tuple[tuple[str, Any], ...] = ()


def _per_seed(seeds, **changes):
    return tuple({"seed": seed} | {f"morel.{name}": value for name, value in changes.items()} for seed in seeds)


# MOREL without its two terms.
OFF = {"contrastive_weight": 0.0, "cosine_weight": 0.0}


def screened():
    """32 settings of MOREL that fill the space evenly (Sobol), and five with its two terms off, over all of k1.

    k1 0.1 to 0.9; alpha, of a contrastive loss that is a mean and not a sum, five decades from 1e-3 (the paper's 1e-5
    times 100 rows) to 100; temperature 0.05 to 1; weight of the cosine term 0.1 to 100.
    """
    points = qmc.scale(qmc.Sobol(4, seed=0).random(32), [0.1, -3, np.log10(0.05), -1], [0.9, 2, 0, 2])
    terms = [dict(preference=(round(k, 3), round(1 - k, 3)), contrastive_weight=float(f"{10 ** alpha / 100:.3g}"),
                  temperature=float(f"{10 ** temperature:.3g}"), cosine_weight=float(f"{10 ** cosine:.3g}"))
             for k, alpha, temperature, cosine in points.tolist()]
    off = [{"preference": (k, round(1 - k, 3))} | OFF for k in (0.1, 0.3, 0.5, 0.7, 0.9)]
    return tuple(_per_seed([SCREENING_SEED], **one)[0] for one in [*terms, *off])


# The screened setting whose network was right most often, attacked, on held-out images at the end of its training.
CHOSEN = dict(preference=(0.701, 0.299), contrastive_weight=0.0382, temperature=0.0502, cosine_weight=36.5)
# The one that came second; looked at after the first had failed with fresh seeds.
SECOND = dict(preference=(0.454, 0.546), contrastive_weight=0.00278, temperature=0.336, cosine_weight=59.3)

GROUPS = (
    Group("mart", LONG, "mart", _per_seed(SEEDS), is_judged_by_fast=True, stages=True),
    Group("morel_mart", LONG, "morel_mart", _per_seed(SEEDS), is_judged_by_fast=True, stages=True),
    Group("mart_overfit", OVERFIT, "mart", _per_seed(SEEDS), is_judged_by_fast=True, stages=True, changes=AS_THEY_ARE),
    Group("morel_mart_overfit", OVERFIT, "morel_mart", _per_seed(SEEDS), is_judged_by_fast=True, stages=True,
          changes=AS_THEY_ARE),
    Group("screening", OVERFIT, "morel_mart", screened(), changes=AS_THEY_ARE),
    Group("chosen_mart", OVERFIT, "mart", _per_seed(FRESH_SEEDS), changes=AS_THEY_ARE),
    Group("chosen", OVERFIT, "morel_mart", _per_seed(FRESH_SEEDS, **CHOSEN), changes=AS_THEY_ARE),
    Group("chosen_off", OVERFIT, "morel_mart", _per_seed(FRESH_SEEDS, **CHOSEN | OFF), changes=AS_THEY_ARE),
    Group("second", OVERFIT, "morel_mart", _per_seed(FRESH_SEEDS[:4], **SECOND), is_judged_by_fast=True,
          changes=AS_THEY_ARE),
    Group("second_off", OVERFIT, "morel_mart", _per_seed(FRESH_SEEDS[:4], **SECOND | OFF), is_judged_by_fast=True,
          changes=AS_THEY_ARE),
    Group("mart_short", SHORT, "mart", _per_seed(SEEDS), is_judged_by_fast=True, stages=True),
    Group("morel_mart_short", SHORT, "morel_mart", _per_seed(SEEDS), is_judged_by_fast=True, stages=True),
    Group("trades", LONG, "trades", _per_seed(SEEDS), is_judged_by_fast=True),
    Group("morel_trades", LONG, "morel_trades", _per_seed(SEEDS), is_judged_by_fast=True),
    *(Group(f"{method}_batch{size}_{length}", regime, method, _per_seed(SEEDS[:6]),
            changes=(("batch_size", size),))
      for size, length, regime in ((8, "updates", EIGHTS), (128, "epochs", LONG), (8, "epochs", LONG),
                                   (128, "updates", LARGE))
      for method in ("mart", "morel_mart")),
    *(Group(f"morel_mart_{name}", LONG, "morel_mart", _per_seed(SEEDS[:6]),
            changes=(("morel.contrastive_reduction", "mean"), ("morel.contrastive_rows", rows)))
      for name, rows in (("reference", "natural"), ("package", "both"))),
    *(Group(f"joined_{name}", BRIEF, "morel_mart", _per_seed(SEEDS[:4]),
            changes=(("morel.scalarization", name),)) for name in JOINED),
    *(Group(f"joined_{name}_three", BRIEF, "morel_mart", _per_seed(SEEDS[:4]),
            changes=(("morel.scalarization", name), ("morel.objectives", "three"))) for name in OF_THREE),
)
