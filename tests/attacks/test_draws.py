import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import APGD, FGSM, MALT, PGD, APGDTargeted
from morel_jax.attacks.draws import draw_keys, mean_over_draws
from morel_jax.attacks.keys import example_keys
from tests.attacks.linear import Linear
from tests.small import mostly_slow

KEY = jax.random.key(0)


def noisy(x, keys):
    """The pixels' sum, times 1 plus noise of each example's key."""
    return x.reshape(len(x), -1).sum(1) * (1 + jax.vmap(jax.random.normal)(keys))


def test_the_mean_is_over_keys_with_the_draws_number():
    x, keys = np.ones((3, 2, 2, 1), np.float32), example_keys(KEY, 3)
    expected = np.mean([[4 * (1 + jax.random.normal(jax.random.fold_in(key, draw))) for key in keys]
                        for draw in range(3)], axis=0)
    np.testing.assert_allclose(mean_over_draws(lambda network: network(x), noisy, keys, 3), expected, rtol=1e-5)


def test_without_keys_the_network_is_asked_once():
    assert draw_keys(1, KEY, 3) is None
    assert mean_over_draws(lambda network: network(2), lambda x: x + 1, None, 7) == 3


def flipping(model):
    """A network whose gradient points the wrong way in a fifth of the draws; its answers are those of the model."""
    def logits_fn(x, keys):
        flip = jax.vmap(lambda key: jnp.where(jax.random.bernoulli(key, 0.8), 1.0, -0.5))(keys)[:, None]
        logits = model.logits(x)
        return jax.lax.stop_gradient(logits) + flip * (logits - jax.lax.stop_gradient(logits))

    return logits_fn


@pytest.mark.parametrize("attack", mostly_slow(
    [FGSM(0.5, eot=16), PGD(0.5, 0.1, 8, loss="margin", num_restarts=2, eot=16)], FGSM(0.5, eot=16)))
def test_gradients_of_random_networks_are_averaged(attack):
    model = Linear(count=12)
    x_adv = np.asarray(jax.jit(lambda x: attack(flipping(model), KEY, x, model.y))(model.x))
    assert (np.argmax(model.logits(x_adv), -1) != model.y).all()


@pytest.mark.parametrize("attack", mostly_slow(
    [PGD(0.05, 0.02, 3, num_restarts=2, eot=4), FGSM(0.05, eot=4), APGD(0.05, 4, eot=4), APGDTargeted(0.05, 3, eot=4),
     MALT(0.05, 3, num_targets=2, eot=4)], FGSM(0.05, eot=4)))
def test_an_example_does_not_depend_on_its_neighbours(attack):
    model, keys, order = Linear(count=8), example_keys(KEY, 8), np.random.default_rng(0).permutation(8)

    def network(x, keys):
        return model.logits(x + 0.1 * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys))

    run = jax.jit(lambda x, y, keys: attack(network, keys, x, y))
    np.testing.assert_array_equal(run(model.x, model.y, keys)[order], run(model.x[order], model.y[order], keys[order]))


def test_one_unlucky_draw_neither_ends_an_ascent_nor_counts():
    """Three answers in ten are wrong everywhere: some of nearly any sixty, never most."""
    x = np.full((6, 2, 2, 1), 0.5, np.float32)

    def network(x, keys):
        wrong = jax.vmap(lambda key: jax.random.bernoulli(key, 0.3))(keys)
        return jnp.stack([jnp.where(wrong, 0.0, 2.0), jnp.ones(len(x))], 1) + 0 * x.reshape(len(x), -1)[:, :2]

    state = jax.jit(lambda x: APGD(0.1, 5, eot=60).run(network, KEY, x, np.zeros(6, int)))(x)
    np.testing.assert_array_equal(state.steps, 6)
    assert not state.found.any()
    assert (state.wrong > 0).all()
    assert (state.wrong < 0.5).all()


def test_passes_are_counted_with_the_draws():
    assert APGD(0.1, eot=20).passes == 20
    assert APGD(0.1).passes == 1


def test_losses_that_compare_with_one_clean_answer_are_refused():
    model = Linear(count=2)
    with pytest.raises(ValueError, match="eot must be 1 for loss 'kl', which compares with one clean answer; got 2"):
        PGD(0.1, 0.1, loss="kl", eot=2)(flipping(model), KEY, model.x, model.y)
    with pytest.raises(ValueError, match="eot must be at least 1; got 0"):
        FGSM(0.1, eot=0)(model.logits, KEY, model.x, model.y)


@pytest.mark.parametrize("attack", mostly_slow([PGD(0.05, 0.02, 3), APGD(0.05, 4)], PGD(0.05, 0.02, 3)))
def test_an_own_loss_is_climbed_as_a_named_one(attack):
    def own(logits, y):
        return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y]

    model = Linear(count=8)
    run = jax.jit(lambda attack: attack(model.logits, KEY, model.x, model.y))
    np.testing.assert_allclose(run(attack.replace(loss=own)), run(attack), atol=1e-6)


@pytest.mark.parametrize(("loss", "got"), [
    (lambda logits, y: logits, r"float32\[8, 5\]"), (lambda logits, y: logits.argmax(1), r"int32\[8\]"),
    (lambda logits, y: None, "NoneType"),
])
def test_an_own_loss_gives_one_value_per_example(loss, got):
    model = Linear(count=8)
    with pytest.raises(ValueError, match=rf"loss must return floats of shape \[8\], one value per example; got {got}"):
        jax.eval_shape(lambda x: APGD(0.05, 4, loss=loss)(model.logits, KEY, x, model.y), model.x)
