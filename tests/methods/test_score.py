import numpy as np
import pytest

from morel_jax.configuration import check, recipe
from morel_jax.methods import METHODS, Views
from morel_jax.training.setup import build_hparams

LABELS = np.int32([0, 2, 1])
NATURAL, ADVERSARIAL = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def test_the_loss_is_the_papers():
    config = recipe("convnet_small,score")
    check(config)
    value, _ = METHODS["score"].objective(config)(Views(NATURAL, ADVERSARIAL), LABELS, build_hparams(config, epoch=1))
    p, p_adv = softmax(NATURAL), softmax(ADVERSARIAL)
    by_hand = ((p - np.eye(4)[LABELS]) ** 2).sum(-1) + 4.0 * ((p - p_adv) ** 2).sum(-1)
    np.testing.assert_allclose(value, by_hand.mean(), rtol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_its_attack_climbs_the_same_error(variant):
    config = recipe(f"convnet_small,score,{variant}")
    check(config)
    assert config.attack.loss == "squared_error"
    assert (config.attack.batch_norm == "batch") == (variant == "reference")
