import numpy as np

from morel_jax.configuration import check, recipe
from morel_jax.methods import METHODS, Views
from morel_jax.training.setup import build_hparams

LABELS = np.int32([0, 2, 1])
NATURAL, ADVERSARIAL = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def by_hand(weight):
    def cross_entropy(z):
        return np.log(np.exp(z).sum(-1)) - z[np.arange(3), LABELS]

    pairing = ((NATURAL - ADVERSARIAL) ** 2).mean(-1)
    return (cross_entropy(NATURAL) + cross_entropy(ADVERSARIAL)) / 2 + weight * pairing


def test_the_loss_is_the_papers():
    config = recipe("convnet_small,alp")
    check(config)
    objective = METHODS["alp"].objective(config)
    value, _ = objective(Views(NATURAL, ADVERSARIAL), LABELS, build_hparams(config, epoch=1))
    np.testing.assert_allclose(value, by_hand(0.5).mean(), rtol=1e-6)
    config.loss.alp_weight = 2.0
    value, _ = objective(Views(NATURAL, ADVERSARIAL), LABELS, build_hparams(config, epoch=1))
    np.testing.assert_allclose(value, by_hand(2.0).mean(), rtol=1e-6)
