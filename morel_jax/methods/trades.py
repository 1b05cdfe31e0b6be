"""TRADES (Zhang et al., arXiv:1901.08573)."""
from morel_jax import losses
from morel_jax.methods.method import BASELINE_DROPS, BETA, KINDS, LABEL_SMOOTHING, NATURAL, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values


def loss(views: Views, labels: Labels, hparams: HParams) -> Values:
    """MOREL's Eq. 11."""
    return losses.trades(views.logits, views.logits_adv, labels, hparams.beta, hparams.label_smoothing)


def recipe(config: Config, rates: Rates) -> None:
    """TRADES's own script, over the 100 epochs of MOREL's comparison."""
    del rates
    config.batch_size = 128
    config.optimizer.update({"learning_rate": 0.1, "weight_decay": 2e-4} | BASELINE_DROPS)


def reference(config: Config) -> None:
    """Each forward pass in training mode moves PyTorch's running statistics, the redundant ones too."""
    config.batch_norm.statistics_from = (*KINDS, NATURAL, *KINDS)


METHOD = Method("trades", loss, attack_loss="kl", recipe=recipe, reference=reference, smooths_labels=True,
                mixes_labels=True, fields={"loss.beta": BETA, "loss.label_smoothing": LABEL_SMOOTHING})
