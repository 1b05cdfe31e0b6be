"""Adversarial logit pairing, ALP (Kannan, Kurakin and Goodfellow, arXiv:1803.06373)."""
import jax.numpy as jnp

from morel_jax import losses
from morel_jax.methods.method import BASELINE_DROPS, LABEL_SMOOTHING, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values
from morel_jax.schema import NOT_NEGATIVE, Field

FIELDS = {
    "loss.alp_weight": Field(0.5, "Weight of logit pairing.", NOT_NEGATIVE, "arXiv:1803.06373", traced="alp_weight"),
    "loss.label_smoothing": LABEL_SMOOTHING,
}


def loss(views: Views, labels: Labels, hparams: HParams) -> Values:
    """Cross-entropy on natural and adversarial images in equal shares, and the pairing of their logits.

        l_i = (CE(z_i, y_i) + CE(z'_i, y_i)) / 2 + w mean_j (z_ij - z'_ij)^2

    The paper adds the pairing to adversarial training on half natural and half adversarial images. It leaves open how
    the squared differences are reduced over the classes; here it is their mean.
    """
    natural, adversarial = (losses.cross_entropy(logits, labels, hparams.label_smoothing)
                            for logits in (views.logits, views.logits_adv))
    pairing = jnp.mean((views.logits - views.logits_adv) ** 2, axis=-1)
    return (natural + adversarial) / 2 + jnp.asarray(hparams.alp_weight, pairing.dtype) * pairing


def recipe(config: Config, rates: Rates) -> None:
    """The paper trains on no CIFAR: the optimiser is that of TRADES's script, over 100 epochs."""
    del rates
    config.batch_size = 128
    config.optimizer.update({"learning_rate": 0.1, "weight_decay": 2e-4} | BASELINE_DROPS)


METHOD = Method("alp", loss, fields=FIELDS, recipe=recipe, smooths_labels=True)
