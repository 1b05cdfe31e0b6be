"""TRADES (Zhang et al., arXiv:1901.08573)."""
from morel_jax import losses
from morel_jax.methods.method import ADVERSARIAL, BASELINE_DROPS, BETA, LABEL_SMOOTHING, NATURAL, Method


def loss(views, labels, hparams):
    """MOREL's Eq. 11, float[n]."""
    return losses.trades(views.logits, views.logits_adv, labels, hparams.beta, hparams.label_smoothing)


def recipe(config, rates):
    """TRADES's own script, over the 100 epochs of MOREL's comparison."""
    del rates
    config.batch_size = 128
    config.optimizer.update({"learning_rate": 0.1, "weight_decay": 2e-4} | BASELINE_DROPS)


def reference(config):
    """Each forward pass in training mode moves PyTorch's running statistics, the redundant ones too."""
    config.batch_norm.statistics_from = (NATURAL, ADVERSARIAL, NATURAL, NATURAL, ADVERSARIAL)


METHOD = Method("trades", loss, attack_loss="kl", recipe=recipe, reference=reference, smooths_labels=True,
                mixes_labels=True, fields={"loss.beta": BETA, "loss.label_smoothing": LABEL_SMOOTHING})
