import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks.fab import FAB, FABTargeted
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.norms import norm as norm_named
from tests.attacks.linear import Linear
from tests.small import mostly_slow

# In this one, the likeliest wrong class is not always the nearest.
PROBLEM = Linear(classes=8, seed=4)
KEY = jax.random.key(0)
BOTH = pytest.mark.parametrize(("attack", "norm"), mostly_slow([(FAB, "linf"), (FABTargeted, "l2")], (FAB, "linf")))
EACH = pytest.mark.parametrize(("attack", "norm"), mostly_slow(
    itertools.product((FAB, FABTargeted), ("linf", "l2")), (FAB, "linf"), (FABTargeted, "l2")))


@functools.partial(jax.jit, static_argnames="logits_fn")
def run(attack, logits_fn, key, x, y):
    return attack.run(logits_fn, key, x, y)


@functools.partial(jax.jit, static_argnames="logits_fn")
def minimal(attack, logits_fn, key, x, y):
    return attack.minimal(logits_fn, key, x, y)


def curved(x):
    """Logits with bent boundaries, on which an attack needs more than one move."""
    random = np.random.default_rng(3)
    hidden = jnp.tanh(2 * (x.reshape(x.shape[0], -1) - 0.5) @ random.normal(size=(16, 16)).astype(np.float32))
    return hidden @ random.normal(size=(16, 6)).astype(np.float32)


def constant(x):
    return jnp.zeros((x.shape[0], 4)) + jnp.arange(4.0)


def curved_problem(count=12, rounding=0.0):
    """Images and the network's answers; ``rounding`` draws the pixels to the box's edges."""
    x = np.random.default_rng(0).random((count, 4, 4, 1)).astype(np.float32)
    x = x + np.float32(rounding) * (np.round(x) - x)
    return x, np.array(np.argmax(curved(x), axis=-1))


@EACH
def test_minimal_finds_the_nearest_image_of_a_linear_model(attack, norm):
    x_adv, distance = minimal(attack(0.0, num_steps=40, norm=norm), PROBLEM.logits, KEY, PROBLEM.x, PROBLEM.y)
    expected = PROBLEM.distances(norm)
    assert (distance >= expected * (1 - 1e-4)).all()
    np.testing.assert_allclose(distance, expected, rtol=0.01)
    np.testing.assert_allclose(norm_named(norm).distance(x_adv, PROBLEM.x), distance, rtol=1e-5)
    assert (np.argmax(PROBLEM.logits(x_adv), axis=-1) != PROBLEM.y).all()


@EACH
def test_found_where_and_only_where_the_nearest_is_within_the_radius(attack, norm):
    expected = PROBLEM.distances(norm)
    epsilon = float(np.sort(expected)[len(expected) // 2 - 1:][:2].mean())
    state = run(attack(epsilon, num_steps=40, norm=norm), PROBLEM.logits, KEY, PROBLEM.x, PROBLEM.y)
    np.testing.assert_array_equal(state.found, expected <= epsilon)
    assert state.done.all()
    x_adv = np.asarray(state.x_adv)
    np.testing.assert_array_equal(np.argmax(PROBLEM.logits(x_adv), axis=-1) != PROBLEM.y, state.found)
    np.testing.assert_array_equal(x_adv[~state.found], PROBLEM.x[~state.found])
    assert (norm_named(norm).distance(x_adv, PROBLEM.x) <= epsilon).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_one_target_is_the_likeliest_wrong_class():
    """That class's boundary is reached, also where another one is nearer."""
    _, distance = minimal(FABTargeted(0.0, num_steps=40, num_targets=1), PROBLEM.logits, KEY, PROBLEM.x, PROBLEM.y)
    logits, rows = np.asarray(PROBLEM.logits(PROBLEM.x)), np.arange(len(PROBLEM.y))
    second = np.argsort(-logits, axis=-1)[:, 1]
    apart = np.abs(PROBLEM.weights[:, PROBLEM.y] - PROBLEM.weights[:, second]).sum(0)
    expected = (logits[rows, PROBLEM.y] - logits[rows, second]) / apart
    assert (distance <= expected * 1.01).all()
    assert (distance > PROBLEM.distances("linf") * 1.05).any()


@BOTH
def test_bent_boundaries_at_the_edge_of_the_box(attack, norm):
    x, y = curved_problem(rounding=0.9)
    x_adv, distance = minimal(attack(0.3, num_steps=20, norm=norm), curved, KEY, x, y)
    assert np.isfinite(distance).all()
    assert (np.argmax(curved(x_adv), axis=-1) != y).all()
    assert np.asarray(x_adv).min() >= 0
    assert np.asarray(x_adv).max() <= 1
    # Just over the boundary: a tenth nearer to the image is too near.
    assert (np.argmax(curved(x + 0.9 * (x_adv - x)), axis=-1) == y).mean() > 0.9


def test_stops_at_the_first_image_within_the_radius_unless_thorough():
    x, y = curved_problem()
    early = run(FAB(1.0, num_steps=20), curved, KEY, x, y)
    late = run(FAB(1.0, num_steps=20, thorough=True), curved, KEY, x, y)
    assert early.found.all()
    assert late.found.all()
    assert (early.steps < 5).all()
    assert (late.steps == 20).all()
    assert (late.best_distance <= early.best_distance).all()
    assert (late.best_distance < early.best_distance).any()
    np.testing.assert_array_equal(late.x_adv, late.best)


@BOTH
def test_radius_zero_returns_the_images(attack, norm):
    x, y = curved_problem()
    state = run(attack(0.0, num_steps=4, norm=norm), curved, KEY, x, y)
    assert not state.found.any()
    np.testing.assert_array_equal(state.x_adv, x)


@BOTH
def test_a_misclassified_example_comes_back_unchanged(attack, norm):
    x, y = curved_problem()
    y[1] = (y[1] + 1) % 6
    state = run(attack(0.5, num_steps=4, norm=norm), curved, KEY, x, y)
    assert state.found[1]
    assert state.steps[1] == 0
    np.testing.assert_array_equal(state.x_adv[1], x[1])
    x_adv, distance = minimal(attack(0.5, num_steps=4, norm=norm), curved, KEY, x, y)
    np.testing.assert_array_equal(x_adv[1], x[1])
    np.testing.assert_array_equal(distance == 0, np.arange(len(x)) == 1)


@BOTH
def test_a_network_without_gradients_is_not_broken_and_every_run_ends(attack, norm):
    x, y = np.full((3, 2, 2, 1), 0.5, np.float32), np.full(3, 3)
    runs = {FAB: 2, FABTargeted: 3 * 2}[attack]
    state = run(attack(0.1, num_steps=7, norm=norm, num_restarts=2, thorough=True), constant, KEY, x, y)
    assert (state.steps == runs * 7).all()
    assert not state.found.any()
    np.testing.assert_array_equal(state.best, x)
    assert np.isinf(state.best_distance).all()
    assert np.isfinite(state.point).all()


def test_fewer_targets_are_fewer_runs():
    x, y = np.full((3, 2, 2, 1), 0.5, np.float32), np.full(3, 3)
    assert (run(FABTargeted(0.1, num_steps=7, num_targets=2), constant, KEY, x, y).steps == 2 * 7).all()


def test_the_order_of_events():
    """One pixel, boundary at 0.5: move to 0.5 + 5%, check, go back a tenth of the way, move on from there unchecked."""
    seen = []

    def logits_fn(x):
        jax.debug.callback(lambda value: seen.append(float(value)), x[0, 0, 0, 0], ordered=True)
        return jnp.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], axis=-1)

    x = np.full((1, 1, 1, 1), 0.3, np.float32)
    state = FAB(0.0, num_steps=2).run(logits_fn, KEY, x, np.zeros(1, int))
    jax.effects_barrier()
    first = 0.3 + 0.2 * 1.05
    back = 0.3 + 0.9 * (first - 0.3)
    alpha = abs(0.5 - back) / (abs(0.5 - back) + 0.2)
    second = (1 - alpha) * (back + 1.05 * (0.5 - back)) + alpha * first
    assert alpha < 0.1  # Below its limit.
    np.testing.assert_allclose(seen, [0.3, 0.3, first, back, second], rtol=1e-5)
    assert state.steps == 2
    np.testing.assert_allclose(state.best_distance, [min(first, second) - 0.3], rtol=1e-5)


@BOTH
def test_restarts_begin_at_random_and_come_no_further(attack, norm):
    x, y = curved_problem()
    once = minimal(attack(0.2, num_steps=4, norm=norm), curved, KEY, x, y)[1]
    again = attack(0.2, num_steps=4, num_restarts=3, norm=norm)
    distances = [minimal(again, curved, jax.random.key(seed), x, y)[1] for seed in range(3)]
    # Two programs, which may round pixels differently: those are up to 1, and what lies between them is the distance.
    assert (np.array(distances) <= once + np.finfo(np.float32).eps).all()
    assert (np.array(distances) < once).any()
    assert (np.ptp(distances, axis=0) > 0).any()


def test_one_compile_for_all_radii():
    x, y = curved_problem()

    @jax.jit
    @chex.assert_max_traces(1)
    def count(attack, key):
        return attack.run(curved, key, x, y).found.sum()

    counts = [count(FAB(np.float32(r), 5, alpha_max=np.float32(a), eta=np.float32(1.05), beta=np.float32(b)), KEY)
              for r, a, b in ((0.001, 0.1, 0.9), (0.05, 0.2, 0.8), (0.5, 0.1, 0.9))]
    assert counts[0] < counts[1] < counts[2]


@BOTH
def test_an_example_does_not_depend_on_its_batch(attack, norm):
    x, y = curved_problem()
    keys = fold_in_each(jax.random.key(5), jnp.arange(len(x)))
    attack = attack(0.05, num_steps=4, norm=norm, num_restarts=3)
    whole = run(attack, curved, keys, x, y)
    for row in (1, 3):
        for others in (np.ones((len(x) - 1, 4, 4, 1), np.float32), x[:-1]):  # Misclassified ones; ones with other keys.
            part = run(attack, curved, jnp.roll(keys, -row), np.concatenate([x[row:row + 1], others]),
                       np.concatenate([y[row:row + 1], y[:-1]]))
            for name in ("x_adv", "found", "steps", "best", "best_distance"):
                np.testing.assert_array_equal(getattr(part, name)[0], getattr(whole, name)[row])


def test_no_gradient_flows_through_an_attack():
    x, y = curved_problem(3)
    gradient = jax.jit(jax.grad(lambda scale: FAB(0.1, 2)(lambda z: scale * curved(z), KEY, x, y).sum()))
    assert gradient(1.0) == 0


@pytest.mark.parametrize(("attack", "message"), [
    (FAB(0.1, norm="l1"), "norm must be one of linf, l2; got 'l1'"),
    (FAB(0.1, num_steps=0), "at least one step and one run; got num_steps=0 and 1 runs"),
    (FAB(0.1, num_restarts=0), "num_restarts must be at least 1; got 0"),
    (FABTargeted(0.1, num_targets=0), "num_targets must be at least 1; got 0"),
])
def test_errors(attack, message):
    with pytest.raises(ValueError, match=message):
        attack(PROBLEM.logits, KEY, PROBLEM.x, PROBLEM.y)


def test_one_class_is_too_few():
    with pytest.raises(ValueError, match="FAB needs two classes or more; got 1"):
        FAB(0.1)(lambda x: PROBLEM.logits(x)[:, :1], KEY, PROBLEM.x, np.zeros(len(PROBLEM.x), int))
