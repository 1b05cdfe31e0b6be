"""What holds for every minimum-norm attack; those of `morel_jax.attacks.fab` have tests of their own."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import CWL2, DDN, FMN, FABTargeted, FMNTargeted
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.norms import norm
from tests.attacks.linear import Linear
from tests.attacks.test_fab import constant, curved, curved_problem

KEY = jax.random.key(0)
MODEL = Linear(classes=2, seed=4)
# Each with how near it comes, as a fraction of the distance: DDN's radius goes up and down by gamma to the end.
ATTACKS = {"ddn": (DDN(), 0.06), "fmn-linf": (FMN(), 0.002), "fmn-l2": (FMN(norm="l2"), 0.002),
           "fmn-t": (FMNTargeted(num_targets=2), 0.002),
           "cw-l2": (CWL2(max_iter=100), 0.02)}
EACH = pytest.mark.parametrize("name", ATTACKS)


@functools.partial(jax.jit, static_argnames="logits_fn")
def run(attack, logits_fn, keys, x, y):
    return attack.run(logits_fn, keys, x, y)


@EACH
def test_finds_the_nearest_image_of_a_linear_model(name):
    attack, tolerance = ATTACKS[name]
    state = run(attack, MODEL.logits, KEY, MODEL.x, MODEL.y)
    expected = MODEL.distances(attack.norm)
    assert state.found.all()
    assert (np.argmax(MODEL.logits(state.x_adv), -1) != MODEL.y).all()
    assert (state.best_distance >= expected * (1 - 1e-4)).all()
    assert (state.best_distance <= expected * (1 + tolerance)).all()
    np.testing.assert_array_equal(state.x_adv, state.best)
    np.testing.assert_allclose(norm(attack.norm).distance(state.x_adv, MODEL.x), state.best_distance, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddn", "fmn-linf", "fmn-l2"])  # In CW's tanh space such pixels hardly move.
def test_bent_boundaries_at_the_edge_of_the_box(name):
    """As near as FAB, to 15 % in the mean; half of the pixels are black or white, where a move is cut short."""
    attack, _ = ATTACKS[name]
    x, y = curved_problem(rounding=0.9)
    x[:, ::2] = np.round(x[:, ::2])
    y = np.array(np.argmax(curved(x), -1))
    state = run(attack, curved, KEY, x, y)
    assert (np.argmax(curved(state.x_adv), -1) != y).all()
    assert state.x_adv.min() >= 0
    assert state.x_adv.max() <= 1
    other = run(FABTargeted(None, 30, norm=attack.norm, thorough=True), curved, KEY, x, y)
    assert np.mean(state.best_distance / other.best_distance) < 1.15


@EACH
def test_an_example_does_not_depend_on_its_batch(name):
    attack, _ = ATTACKS[name]
    x, y = curved_problem()
    keys = fold_in_each(jax.random.key(5), jnp.arange(len(x)))
    whole = run(attack, curved, keys, x, y)
    assert len(np.unique(whole.best_distance)) == len(x)
    others = np.ones((len(x) - 1, 4, 4, 1), np.float32)
    part = run(attack, curved, jnp.roll(keys, -3), np.concatenate([x[3:4], others]), np.roll(y, -3))
    for field in ("x_adv", "steps", "best_distance"):
        np.testing.assert_array_equal(getattr(part, field)[0], getattr(whole, field)[3])


@EACH
def test_a_misclassified_example_has_distance_zero(name):
    x, y = curved_problem()
    y[1] = (y[1] + 1) % 6
    attack, _ = ATTACKS[name]
    state = run(attack, curved, KEY, x, y)
    np.testing.assert_array_equal(state.best_distance == 0, np.arange(len(x)) == 1)
    assert state.steps[1] == 0
    np.testing.assert_array_equal(state.x_adv[1], x[1])


@EACH
def test_a_network_without_gradients_is_not_broken_and_every_run_ends(name):
    x, y = np.full((3, 4, 4, 1), 0.5, np.float32), np.full(3, 3)
    attack, _ = ATTACKS[name]
    state = run(attack, constant, KEY, x, y)
    assert state.done.all()
    assert not state.found.any()
    assert np.isinf(state.best_distance).all()
    np.testing.assert_array_equal(state.x_adv, x)


@EACH
def test_logits_that_are_not_finite_are_no_success(name):
    """Beyond a wall of NaN around the image, from which nothing comes back."""
    attack, _ = ATTACKS[name]

    def walled(x):
        return jnp.where(jnp.abs(x - 0.5).max(axis=(1, 2, 3), keepdims=False)[:, None] > 0.01, jnp.nan, constant(x)
                         + x.sum(axis=(1, 2, 3))[:, None] * jnp.array([1.0, 0, 0, -1]))

    state = attack.run(walled, KEY, np.full((2, 4, 4, 1), 0.5, np.float32), np.zeros(2, int) + 0)
    assert state.done.all()
    assert not np.isnan(state.best_distance).any()
    assert np.isfinite(state.x_adv).all()


def test_minimal_gives_the_image_and_its_distance():
    x_adv, distance = jax.jit(lambda: FMN(20).minimal(MODEL.logits, KEY, MODEL.x, MODEL.y))()
    state = run(FMN(20), MODEL.logits, KEY, MODEL.x, MODEL.y)
    np.testing.assert_allclose(distance, state.best_distance, rtol=1e-4)
    np.testing.assert_allclose(x_adv, state.x_adv, atol=1e-4)
    half, _ = FMN(20).minimal(MODEL.logits, KEY, jnp.asarray(MODEL.x, jnp.bfloat16), MODEL.y)
    assert half.dtype == jnp.bfloat16


def test_fab_without_a_radius_is_bounded_by_the_box_alone():
    assert FABTargeted(0.1).bounded
    assert not FABTargeted(None).bounded
    x, y = curved_problem()
    state = run(FABTargeted(None, 8, thorough=True), curved, KEY, x, y)
    np.testing.assert_allclose(state.best_distance, FABTargeted(0.0, 8).minimal(curved, KEY, x, y)[1], rtol=1e-3)
    np.testing.assert_array_equal(state.x_adv, state.best)


@pytest.mark.parametrize(("attack", "message"), [
    (DDN(num_steps=0), "DDN needs at least one step; got num_steps=0"),
    (FMN(num_steps=0), "FMN needs at least one step; got num_steps=0"),
    (FMN(num_steps=-1), "num_steps must be at least 0; got -1"),
    (FMN(norm="l1"), "norm must be one of linf, l2; got 'l1'"),
    (FMN(step_size=0.0), "step_size must be a finite number above 0; got 0.0"),
    (FMN(gamma=1.0), r"gamma must be in \(0, 1\); got 1.0"),
    (DDN(gamma=0.0), r"gamma must be in \(0, 1\); got 0.0"),
    (DDN(first_radius=-1.0), "first_radius must be a finite number above 0; got -1.0"),
    (FMNTargeted(num_targets=0), "num_targets must be at least 1; got 0"),
    (CWL2(max_iter=0), "CWL2 needs at least one step; got max_iter=0"),
    (CWL2(num_searches=0), "num_searches must be at least 1; got 0"),
    (CWL2(initial_const=0.0), "initial_const must be a finite number above 0; got 0.0"),
    (CWL2(learning_rate=np.inf), "learning_rate must be a finite number above 0; got inf"),
    (CWL2(confidence=np.nan), "confidence must be a finite number; got nan"),
])
def test_errors(attack, message):
    with pytest.raises(ValueError, match=message):
        attack(MODEL.logits, KEY, MODEL.x, MODEL.y)


@EACH
def test_one_class_is_too_few(name):
    with pytest.raises(ValueError, match="two classes"):
        ATTACKS[name][0](lambda x: MODEL.logits(x)[:, :1], KEY, MODEL.x, np.zeros(len(MODEL.x), int))
