"""LOAT over MART or TRADES (Yin and Ruan, CVPR 2024)."""
import numpy as np

from morel_jax import losses
from morel_jax.methods import mart
from morel_jax.methods.method import BETA, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values
from morel_jax.schema import AT_LEAST_1, NOT_NEGATIVE, Field, one_of

FIELDS = {
    "loss.beta": BETA,
    "loss.loat_theta": Field(0.1, "Weight of LOAT's regulariser.", NOT_NEGATIVE, "LOAT's ResNet18 run",
                             traced="loat_theta"),
    "loss.loat_gamma": Field(0.05, "Weight of LOAT's pairing; 0 leaves it out.", NOT_NEGATIVE, "LOAT's code",
                             traced="loat_gamma"),
    "loss.loat_kind": Field("mse", "Form of LOAT's regulariser and pairing.", one_of("mse", "kl")),
    "loss.loat_base": Field("mart", "The loss that LOAT is put over.", one_of("mart", "trades")),
    "loss.loat_last_epoch": Field(100, "First epoch of the last phase, counted from 1.", AT_LEAST_1, swept=True),
}


def loss(views: Views, labels: Labels, hparams: HParams, *, kind: str, base: str) -> Values:
    """LOAT's batch loss, divided among the examples."""
    return losses.loat(views.logits, views.logits_adv, labels, hparams.loat_phase, beta=hparams.beta,
                       theta=hparams.loat_theta, gamma=hparams.loat_gamma, kind=kind, base=base)


def static(config: Config) -> dict[str, str]:
    """The loss's form."""
    return {"kind": config.loss.loat_kind, "base": config.loss.loat_base}


def schedule(config: Config, epoch: int) -> dict[str, np.int32]:
    """Which of LOAT's phases an epoch is in."""
    return {"loat_phase": np.int32(losses.loat_phase(epoch, config.loss.loat_last_epoch))}


def recipe(config: Config, rates: Rates) -> None:
    """LOAT's ResNet18 run on top of MART: batch 512, 110 epochs."""
    mart.recipe(config, rates)
    config.batch_size = 512
    config.epochs = 110


METHOD = Method("loat", loss, fields=FIELDS, static=static, schedule=schedule, recipe=recipe, reference=mart.reference,
                coupling="means over the images classified right or wrong")
