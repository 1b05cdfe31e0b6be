"""Training on clean images, as for a surrogate that transfer attacks are crafted on."""
from morel_jax import losses
from morel_jax.methods.method import LABEL_SMOOTHING, NATURAL, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values


def loss(views: Views, labels: Labels, hparams: HParams) -> Values:
    """Cross-entropy on natural images."""
    return losses.cross_entropy(views.logits, labels, hparams.label_smoothing)


def recipe(config: Config, rates: Rates) -> None:
    """A surrogate for transfer, as the paper's ResNet50: 200 epochs on clean images. The paper does not give the
    rest."""
    del rates
    config.epochs = 200
    config.batch_size = 128
    config.optimizer.update({"learning_rate": 0.1, "weight_decay": 5e-4, "drop_epochs": (100, 150),
                             "drop_factors": (0.1, 0.01)})


METHOD = Method("standard", loss, passes=(NATURAL,), fields={"loss.label_smoothing": LABEL_SMOOTHING}, recipe=recipe,
                smooths_labels=True, mixes_labels=True)
