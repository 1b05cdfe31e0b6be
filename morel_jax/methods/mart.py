"""MART (Wang et al., ICLR 2020)."""
from morel_jax import losses
from morel_jax.methods.method import BASELINE_DROPS, BETA, KINDS, Method, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values


def loss(views: Views, labels: Labels, hparams: HParams) -> Values:
    """MOREL's Eq. 12."""
    return losses.mart(views.logits, views.logits_adv, labels, hparams.beta)


def recipe(config: Config, rates: Rates) -> None:
    """MART's own scripts for ResNet18 and WideResNet; beta 6 as in MOREL's comparison."""
    del rates
    config.batch_size = 128
    config.optimizer.update(BASELINE_DROPS)
    if config.model.name.startswith("wide_resnet"):
        config.epochs = 76
        config.optimizer.update({"learning_rate": 0.1, "weight_decay": 2e-4})
    else:
        config.epochs = 120
        config.optimizer.update({"learning_rate": 0.01, "weight_decay": 3.5e-3})


def reference(config: Config) -> None:
    """Each forward pass in training mode moves PyTorch's running statistics, the redundant ones too."""
    config.batch_norm.statistics_from = (*KINDS, *KINDS)


METHOD = Method("mart", loss, recipe=recipe, reference=reference, fields={"loss.beta": BETA})
