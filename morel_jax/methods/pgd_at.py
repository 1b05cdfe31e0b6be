"""PGD adversarial training (Madry et al., arXiv:1706.06083)."""
from morel_jax import losses
from morel_jax.methods.method import ADVERSARIAL, LABEL_SMOOTHING, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values


def loss(views: Views, labels: Labels, hparams: HParams) -> Values:
    """Cross-entropy on adversarial images."""
    return losses.pgd_at(views.logits, views.logits_adv, labels, hparams.label_smoothing)


def recipe(config: Config, rates: Rates) -> None:
    """Rice et al., arXiv:2002.11569, who follow Madry et al."""
    del rates
    config.epochs = 110
    config.batch_size = 128
    config.optimizer.update({"learning_rate": 0.1, "weight_decay": 5e-4, "drop_epochs": (100, 105),
                             "drop_factors": (0.1, 0.01)})


METHOD = Method("pgd_at", loss, passes=(ADVERSARIAL,), fields={"loss.label_smoothing": LABEL_SMOOTHING}, recipe=recipe,
                smooths_labels=True)
