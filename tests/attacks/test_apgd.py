import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import APGD, APGDTargeted, l2, linf
from morel_jax.losses import margin
from tests.attacks.linear import Linear
from tests.small import mostly_slow

NORMS = {"linf": linf, "l2": l2}
ATTACKS = {
    "ce": lambda epsilon, norm, steps=60: APGD(epsilon, steps, norm=norm),
    "dlr": lambda epsilon, norm, steps=60: APGD(epsilon, steps, loss="dlr", norm=norm),
    "targeted": lambda epsilon, norm, steps=60: APGDTargeted(epsilon, steps, norm=norm),
}


@functools.partial(jax.jit, static_argnums=1)
def run(attack, logits_fn, x, y, keys=None):
    return attack.run(logits_fn, jax.random.key(0) if keys is None else keys, x, y)


def race(count=24):
    """A linear model of four classes, two of which are out of reach."""
    model = Linear(classes=4, count=count)
    model.bias[:] = [0, 0, -50, -60]
    model.y = np.argmax(model.logits(model.x), -1)
    return model


@pytest.mark.parametrize(("name", "norm"), mostly_slow(
    itertools.product(ATTACKS, NORMS), ("ce", "linf"), ("dlr", "l2"), ("targeted", "linf")))
def test_breaks_what_a_linear_model_allows_and_nothing_else(name, norm):
    """One radius for all images, amid their known distances.

    The untargeted losses are convex here, with a maximum at each rival: two classes are in reach, so there is one.
    """
    model = Linear(count=24) if name == "targeted" else race()
    distances = model.distances(norm)
    epsilon = float(np.median(distances))
    reached = distances < epsilon * 0.99
    state = run(ATTACKS[name](epsilon, norm), model.logits, model.x, model.y)
    predictions = np.argmax(model.logits(state.x_adv), -1)
    np.testing.assert_array_equal(predictions != model.y, state.found)
    assert np.asarray(state.found)[reached].all()
    assert not np.asarray(state.found)[distances > epsilon * 1.001].any()
    np.testing.assert_array_equal(np.asarray(state.x_adv)[~state.found], model.x[~state.found])
    assert (NORMS[norm].distance(state.x_adv, model.x) <= epsilon * (1 + 1e-5)).all()


@pytest.mark.parametrize(("loss", "norm"), mostly_slow(
    itertools.product(("ce", "dlr", "pm"), NORMS), ("ce", "l2"), ("dlr", "linf")))
def test_reaches_the_optimum_of_a_two_way_race(loss, norm):
    """Where one rival is in reach, the best point is x + epsilon times the dual direction."""
    model = race(8)
    apart = model.weights[:, 1 - model.y].T - model.weights[:, model.y].T
    epsilon = 0.5 * float(model.distances(norm).min())
    unit = np.sign(apart) if norm == "linf" else apart / np.linalg.norm(apart, axis=1, keepdims=True)
    best = model.x + epsilon * unit.reshape(model.x.shape)
    state = run(APGD(epsilon, 100, loss=loss, norm=norm), model.logits, model.x, model.y)
    assert not state.found.any()
    np.testing.assert_allclose(margin(model.logits(state.run.best), model.y), margin(model.logits(best), model.y),
                               rtol=1e-3)


def test_ball_and_box_hold_at_the_edge_of_the_box():
    model = Linear(count=30)
    x = np.clip(model.x * 3 - 1, 0, 1)
    y = np.argmax(model.logits(x), -1)
    for norm, module in NORMS.items():
        x_adv = np.asarray(run(APGD(0.2, 10, norm=norm), model.logits, x, y).x_adv)
        assert (module.distance(x_adv, x) <= 0.2 + 1e-6).all()
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


def test_steps_end_with_success_or_with_the_last_ascent():
    model = Linear(count=24)
    epsilon = float(np.median(model.distances("linf")))
    state = run(APGD(epsilon, 20, num_restarts=2), model.logits, model.x, model.y)
    steps = np.asarray(state.steps)
    assert (steps[~state.found] == 2 * 21).all()
    assert (steps[state.found] <= 2 * 21).all()
    assert (steps[state.found] < 10).any()
    targets = run(APGDTargeted(1e-4, 5), model.logits, model.x, model.y)
    assert (np.asarray(targets.steps) == 4 * 6).all()  # Five classes have four others.


def test_the_step_size_is_halved_when_the_loss_stops_rising():
    """A network that answers the same everywhere: no step raises the loss, so each checkpoint halves the step."""
    x = np.full((2, 2, 2, 1), 0.5, np.float32)
    flat = lambda x: 0.0 * x.reshape(len(x), -1) + jnp.array([1.0, 0, 0, 0])  # noqa: E731
    state = run(APGD(0.1, 100), flat, x, np.zeros(2, int))
    # Checkpoints after 22, then 19, 16, 13, 10, 7 and 6 more steps, and once more 6: 22 + 19 + ... = 99 <= 100.
    stretches = [22, 19, 16, 13, 10, 7, 6, 6]
    assert sum(stretches) == 99
    np.testing.assert_allclose(state.run.step_size, 0.2 / 2**len(stretches), rtol=1e-5)


def test_an_example_does_not_depend_on_its_neighbours():
    model = Linear(count=16)
    keys = jax.random.split(jax.random.key(0), 16)
    epsilon = float(np.median(model.distances("linf")))
    attack, order = APGD(epsilon, 20), np.random.default_rng(0).permutation(16)
    whole = run(attack, model.logits, model.x, model.y, keys)
    shuffled = run(attack, model.logits, model.x[order], model.y[order], keys[order])
    np.testing.assert_array_equal(whole.x_adv[order], shuffled.x_adv)
    np.testing.assert_array_equal(whole.steps[order], shuffled.steps)


def test_one_compile_for_every_radius():
    chex.clear_trace_counter()
    model = Linear()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def attacked(attack, x, y):
        return attack(model.logits, jax.random.key(0), x, y)

    for epsilon in (0.01, 0.1):
        attacked(APGD(epsilon, 5), model.x, model.y)


def test_gradients_of_random_networks_are_averaged():
    """The network's sign is drawn anew: single gradients point both ways, their mean the right way."""
    model = Linear(count=12)
    epsilon = 1.5 * float(model.distances("linf").max())

    def noisy(x, keys):
        flip = jax.vmap(lambda key: jnp.where(jax.random.bernoulli(key, 0.8), 1.0, -0.5))(keys)[:, None]
        weights = model.logits(x)
        return jax.lax.stop_gradient(weights) + flip * (weights - jax.lax.stop_gradient(weights))

    state = run(APGD(epsilon, 20, eot=20), noisy, model.x, model.y)
    assert state.found.all()


def test_nan_is_no_success():
    model = Linear(count=4)
    nowhere = lambda x: jnp.where(jnp.max(jnp.abs(x - model.x)) > 0, jnp.nan, model.logits(x))  # noqa: E731
    state = run(APGD(0.1, 5), nowhere, model.x, model.y)
    assert not state.found.any()
    np.testing.assert_array_equal(state.x_adv, model.x)


def test_errors():
    model = Linear()
    call = lambda attack, logits=model.logits: attack(logits, jax.random.key(0), model.x, model.y % 2)  # noqa: E731
    with pytest.raises(ValueError, match=r"loss must be one of ce, dlr, pm; got 'kl'"):
        call(APGD(0.1, loss="kl"))
    with pytest.raises(ValueError, match=r"norm must be one of linf, l2; got 'l1'"):
        call(APGD(0.1, norm="l1"))
    with pytest.raises(ValueError, match="DLR loss needs at least three classes"):
        call(APGD(0.1, loss="dlr"), lambda x: model.logits(x)[:, :2])
    with pytest.raises(ValueError, match="targeted DLR loss needs at least four classes"):
        call(APGDTargeted(0.1), lambda x: model.logits(x)[:, :3])
