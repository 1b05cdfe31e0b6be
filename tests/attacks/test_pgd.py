import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import PGD
from morel_jax.attacks.keys import fold_in_each, fold_in_rows
from morel_jax.losses import cross_entropy, kl_divergence
from tests.attacks.linear import Linear
from tests.small import mostly_slow

WEIGHTS = np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32)


def linear(x):
    return x.reshape(len(x), -1) @ WEIGHTS


@functools.partial(jax.jit, static_argnums=1)
def attacked(attack, logits_fn, key, x, y):
    return attack(logits_fn, key, x, y)


def images(count=9):
    x = np.random.default_rng(0).random((count, 2, 2, 3)).astype(np.float32)
    return x, np.arange(count) % 2


def optimum(x, y, epsilon):
    """Of a linear two-class model: each pixel at the end of its interval that favours the other class."""
    towards_other = WEIGHTS[:, 1 - y].T - WEIGHTS[:, y].T
    return np.clip(x + epsilon * np.sign(towards_other).reshape(x.shape), 0, 1)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("start", ["uniform", "normal", "clean"])
def test_reaches_the_optimum_of_a_linear_model(loss, start):
    x, y = images()
    attack = PGD(0.1, 0.03, num_steps=8, start=start, loss=loss)
    np.testing.assert_allclose(attacked(attack, linear, jax.random.key(0), x, y), optimum(x, y, 0.1), atol=1e-6)


def test_dlr_ends_where_a_linear_race_of_two_is_lost():
    """Of three classes the third is out of reach: the best point favours the other of the first two."""
    model = Linear(classes=3, count=8)
    model.bias[:] = [0, 0, -50]
    y = np.argmax(model.logits(model.x), -1)
    towards_other = (model.weights[:, 1 - y] - model.weights[:, y]).T.reshape(model.x.shape)
    x_adv = attacked(PGD(0.01, 0.003, num_steps=8, loss="dlr"), model.logits, jax.random.key(0), model.x, y)
    np.testing.assert_allclose(x_adv, model.x + 0.01 * np.sign(towards_other), atol=1e-6)


def kl(z, x):
    p, log_p, log_q = jax.nn.softmax(linear(x)), jax.nn.log_softmax(linear(x)), jax.nn.log_softmax(linear(z))
    return np.asarray((p * (log_p - log_q)).sum(-1))


def squared_error(z, x):
    return np.asarray(((jax.nn.softmax(linear(z)) - jax.nn.softmax(linear(x))) ** 2).sum(-1))


@pytest.mark.parametrize("distance", [kl, squared_error])
def test_distances_from_the_clean_outputs_end_at_an_extreme_of_a_linear_model(distance):
    x, y = images()
    x_adv = np.asarray(attacked(PGD(0.1, 0.03, num_steps=8, loss=distance.__name__), linear, jax.random.key(0), x, y))
    # Both fall to zero at the image's own score and rise on either side, so each climb ends in one of two extremes.
    ends = np.stack([optimum(x, np.zeros(len(x), int), 0.1), optimum(x, np.ones(len(x), int), 0.1)])
    at_an_end = np.isclose(ends, x_adv, atol=1e-6).all(axis=(2, 3, 4)).any(axis=0)
    assert at_an_end.all()
    assert (distance(x_adv, x) > 0).all()


def test_ball_and_box_hold():
    x, y = images(40)
    x_adv = np.asarray(attacked(PGD(0.07, 0.05, num_steps=5), linear, jax.random.key(0), x, y))
    assert np.abs(x_adv - x).max() <= 0.07 + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_radius_zero_returns_the_images():
    x, y = images()
    np.testing.assert_array_equal(attacked(PGD(0.0, 0.1), linear, jax.random.key(0), x, y), x)


def test_vmap_over_radii_equals_a_loop():
    x, y = images()
    radii = jnp.array([0.0, 0.02, 0.1])

    def run(radius):
        return attacked(PGD(radius, radius / 4), linear, jax.random.key(0), x, y)

    np.testing.assert_allclose(jax.jit(jax.vmap(run))(radii), [run(radius) for radius in radii], atol=1e-6)


def test_one_compile_for_all_radii():
    x, y = images()

    @jax.jit
    @chex.assert_max_traces(1)
    def run(attack, key):
        return attack(linear, key, x, y)

    outcomes = [run(PGD(np.float32(r), np.float32(r / 4)), jax.random.key(0)) for r in (0.01, 0.1)]
    assert np.abs(outcomes[1] - x).max() > np.abs(outcomes[0] - x).max()


def test_an_example_does_not_depend_on_its_batch():
    x, y = images()
    keys = fold_in_each(jax.random.key(5), jnp.arange(len(x)))
    attack = PGD(0.1, 0.001, num_steps=3)  # Small steps: the start stays visible in the result.
    whole = attacked(attack, linear, keys, x, y)
    parts = [attacked(attack, linear, keys[i:i + 2], x[i:i + 2], y[i:i + 2]) for i in range(0, len(x), 2)]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-7)
    assert np.abs(np.diff(np.asarray(whole) - x, axis=0)).max() > 0.01


def crooked(x):
    """Three classes' logits with many local maxima, so that where a climb starts decides where it ends."""
    z = x.reshape(len(x), -1)
    directions = np.random.default_rng(2).normal(size=(12, 3)).astype(np.float32)
    return jnp.sin(20 * z @ directions) + jnp.array([1.8, 0, 0])


@pytest.mark.parametrize("loss", mostly_slow(["ce", "kl"], "ce"))
def test_restarts_keep_the_first_success_or_the_highest_loss(loss):
    x, _ = images(40)
    y = np.zeros(40, int)
    keys = fold_in_each(jax.random.key(3), jnp.arange(40))

    attack = PGD(0.02, 0.002, num_steps=2, loss=loss)
    single = jax.jit(lambda keys: attack(crooked, keys, x, y))
    singles = [single(keys)] + [single(fold_in_rows(keys, jnp.full(40, restart))) for restart in (1, 2, 3)]
    logits = [crooked(x_adv) for x_adv in singles]
    losses = np.stack([cross_entropy(z, y) if loss == "ce" else kl_divergence(crooked(x), z) for z in logits])
    broken = np.stack([np.argmax(z, -1) != y for z in logits])
    kept = np.where(broken.any(0), broken.argmax(0), losses.argmax(0))
    assert set(kept[broken.any(0)]) == set(kept[~broken.any(0)]) == {0, 1, 2, 3}
    expected = np.stack(singles)[kept, np.arange(40)]
    np.testing.assert_allclose(attacked(attack.replace(num_restarts=4), crooked, keys, x, y), expected, atol=1e-6)


def test_restarts_begin_with_the_single_run():
    x, y = images()
    keep_first = PGD(0.1, 0.1, num_steps=0, num_restarts=3)  # The climbs end where they start.
    single = attacked(keep_first.replace(num_restarts=1), linear, jax.random.key(0), x, 0 * y)
    broken = np.argmax(linear(single), -1) != 0
    assert broken.any()
    assert not broken.all()
    x_adv = np.asarray(attacked(keep_first, linear, jax.random.key(0), x, 0 * y))
    np.testing.assert_array_equal(x_adv[broken], single[broken])


def test_no_gradient_flows_through_an_attack():
    x, y = images()

    def loss(scale):
        return PGD(0.1, 0.03)(lambda z: scale * linear(z), jax.random.key(0), x, y).sum()

    assert jax.jit(jax.grad(loss))(1.0) == 0


@pytest.mark.parametrize(("fields", "message"), [
    (dict(loss="hinge"), "loss must be one of .*; got 'hinge'"),
    (dict(start="corner"), "start must be one of .*; got 'corner'"),
    (dict(loss="kl", start="clean"), "loss 'kl' needs a random start"),
    (dict(loss="squared_error", start="clean"), "loss 'squared_error' needs a random start"),
    (dict(loss="dlr"), "at least three classes"),
    (dict(num_restarts=0), "num_restarts must be at least 1; got 0"),
    (dict(num_restarts=2, start="clean"), "num_restarts must be 1 for start 'clean', .*; got 2"),
])
def test_errors(fields, message):
    x, y = images()
    with pytest.raises(ValueError, match=message):
        attacked(PGD(0.1, 0.03, **fields), linear, jax.random.key(0), x, y)


@pytest.mark.parametrize("start", ["uniform", "normal", "clean"])
def test_reaches_the_optimum_of_a_linear_model_in_l2(start):
    """Inside the box the radius goes along the difference of the two classes' weights."""
    model = Linear(classes=2, count=9)
    along = (model.weights[:, 1 - model.y] - model.weights[:, model.y]).T
    best = model.x + 0.2 * (along / np.linalg.norm(along, axis=1, keepdims=True)).reshape(model.x.shape)
    attack = PGD(0.2, 0.2, num_steps=60, start=start, norm="l2")
    np.testing.assert_allclose(attack(model.logits, jax.random.key(0), model.x, model.y), best, atol=2e-4)


def test_ball_and_box_hold_in_l2():
    x, y = images(40)
    x_adv = np.asarray(attacked(PGD(0.9, 0.5, num_steps=5, norm="l2"), linear, jax.random.key(0), x, y))
    distances = np.linalg.norm((x_adv - x).reshape(40, -1), axis=1)
    assert distances.max() <= 0.9 + 1e-6
    assert np.mean(distances > 0.85) > 0.5  # The box takes little of it.
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_an_unknown_norm():
    x, y = images()
    with pytest.raises(ValueError, match="norm must be one of linf, l2; got 'l1'"):
        PGD(0.1, 0.03, norm="l1")(linear, jax.random.key(0), x, y)
