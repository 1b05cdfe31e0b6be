"""SCORE, TRADES with squared errors (Pang et al., arXiv:2202.10103)."""
import jax
import jax.numpy as jnp

from morel_jax.methods.method import BETA, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values


def loss(views: Views, labels: Labels, hparams: HParams) -> Values:
    """Squared errors between probabilities in place of TRADES's cross-entropy and divergence.

        l_i = |p_i - e_{y_i}|^2 + beta |p_i - p'_i|^2,   p = softmax(z_i), p' = softmax(z'_i)
    """
    natural, adversarial = jax.nn.softmax(views.logits), jax.nn.softmax(views.logits_adv)
    target = jax.nn.one_hot(labels, natural.shape[-1], dtype=natural.dtype)
    error = jnp.sum((natural - target) ** 2, axis=-1)
    return error + jnp.asarray(hparams.beta, error.dtype) * jnp.sum((natural - adversarial) ** 2, axis=-1)


def recipe(config: Config, rates: Rates) -> None:
    """The published code's run, without its million generated images and its average of the weights."""
    del rates
    config.epochs = 400
    config.batch_size = 512
    config.loss.beta = 4.0
    config.optimizer.update({"learning_rate": 0.2, "weight_decay": 5e-4, "nesterov": True, "schedule": "cosine"})


def reference(config: Config) -> None:
    """The published code starts uniformly in the ball and attacks with the batch's statistics."""
    config.attack.update({"start": "uniform", "batch_norm": "batch"})


METHOD = Method("score", loss, attack_loss="squared_error", fields={"loss.beta": BETA}, recipe=recipe,
                reference=reference)
