"""Foolbox's attacks on our networks, against ours."""
import foolbox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks.fgsm import FGSM
from morel_jax.attacks.pgd import PGD
from morel_jax.interop import foolbox as adapter

pytestmark = pytest.mark.parity
EPSILON = 0.1
COUNT = 24


@pytest.fixture(scope="module")
def network(quickstart_network):
    """(logits_fn, Foolbox's model of it, x, y); Foolbox tells frameworks by their arrays, so these are JAX's."""
    logits_fn, _, dataset = quickstart_network
    x, y = jnp.float32(dataset.test.images[:COUNT]) / 255, jnp.asarray(dataset.test.labels[:COUNT])
    return logits_fn, adapter.model(logits_fn), x, y


def test_accuracy(network):
    logits_fn, model, x, y = network
    accuracy = foolbox.utils.accuracy(model, x, y)
    assert accuracy == np.mean(np.argmax(logits_fn(x), -1) == y)
    assert 0.5 < accuracy < 1


@pytest.mark.parametrize(("theirs", "ours"), [
    (foolbox.attacks.LinfFastGradientAttack(random_start=False), FGSM(EPSILON)),
    (foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 10, steps=20, random_start=False),
     PGD(EPSILON, EPSILON / 10, num_steps=20, start="clean")),
])
def test_the_same_images(network, theirs, ours):
    """But for one, as rounding may turn the sign of a gradient that is next to zero."""
    logits_fn, model, x, y = network
    raw, clipped, broken = theirs(model, x, y, epsilons=EPSILON)
    x_adv = ours(logits_fn, jax.random.key(0), x, y)
    same = np.abs(raw - x_adv).max(axis=(1, 2, 3)) < 1e-5
    assert same.sum() >= COUNT - 1
    np.testing.assert_array_equal(raw, clipped)
    np.testing.assert_array_equal(broken[same], (np.argmax(logits_fn(x_adv), -1) != y)[same])
    assert broken.any()
    assert np.abs(raw - x).max() > 0.99 * EPSILON


def test_other_attacks_run(network):
    """A random start, a decision by distance rather than loss, and an optimiser; none leaves ball or box."""
    _, model, x, y = network
    for attack in (foolbox.attacks.LinfPGD(steps=5), foolbox.attacks.LinfDeepFoolAttack(steps=5),
                   foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=5)):
        _, clipped, broken = attack(model, x[:8], y[:8], epsilons=EPSILON)
        assert np.isfinite(clipped).all()
        assert clipped.min() >= 0
        assert clipped.max() <= 1
        assert broken.shape == (8,)


def test_a_plain_function(network):
    logits_fn, model, x, _ = network
    plain = adapter.model(lambda images: logits_fn(images))
    assert plain.bounds == (0, 1)
    np.testing.assert_allclose(plain(x), model(x), atol=1e-5)
