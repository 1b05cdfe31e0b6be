import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.keys import fold_in_name, fold_in_rows
from tests.attacks.linear import Linear


@struct.dataclass
class Countdown(IterativeAttack):
    """Adds 0.01 a step; the example of label y is done after y steps."""

    def start(self, keys, x, y, clean_logits):
        return AttackState(**begin(x, clean_logits, y))

    def step(self, logits_fn, keys, x, y, state):
        done = state.steps + 1 >= y
        return state.replace(x_adv=state.x_adv + 0.01, done=done, found=done)


def one_hot_of(y):
    return lambda x: jnp.asarray(np.eye(9, dtype=np.float32)[y][:len(x)])


def test_each_example_runs_to_its_own_end_and_stays_there():
    y = np.array([3, 1, 5])
    x = np.full((3, 2, 2, 1), 0.5, np.float32)
    state = jax.jit(Countdown().run, static_argnums=0)(one_hot_of(y), jax.random.key(0), x, y)
    np.testing.assert_array_equal(state.steps, y)
    np.testing.assert_allclose(state.x_adv[:, 0, 0, 0], 0.5 + 0.01 * y, rtol=1e-6)


def test_misclassified_and_skipped_examples_are_left_alone():
    y = np.array([3, 1, 5])
    x = np.full((3, 2, 2, 1), 0.5, np.float32)
    state = Countdown().run(one_hot_of([3, 2, 5]), jax.random.key(0), x, y, skip=np.array([False, False, True]))
    np.testing.assert_array_equal(state.steps, [3, 0, 0])
    np.testing.assert_array_equal(state.found, [True, True, False])
    np.testing.assert_array_equal(state.x_adv[1:], x[1:])


def test_select_takes_rows_of_every_leaf():
    ones, zeros = {"a": np.ones((3, 2)), "b": np.ones(3, bool)}, {"a": np.zeros((3, 2)), "b": np.zeros(3, bool)}
    chosen = select(np.array([True, False, True]), ones, zeros)
    np.testing.assert_array_equal(chosen["a"], [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(chosen["b"], [True, False, True])


def test_keys_by_name_differ_by_name_and_fold_into_rows_alike():
    key = jax.random.key(5)
    rows = jax.random.split(key, 3)
    data = jax.random.key_data
    assert not np.array_equal(data(fold_in_name(key, "fab")), data(fold_in_name(key, "square")))
    np.testing.assert_array_equal(data(fold_in_name(rows, "fab"))[1], data(fold_in_name(rows[1], "fab")))
    np.testing.assert_array_equal(data(fold_in_rows(rows, np.array([4, 5, 6])))[2],
                                  data(jax.random.fold_in(rows[2], 6)))


def test_linear_model_knows_its_distances():
    """What other tests rely on: a step of that length reaches the boundary, a shorter one does not."""
    for norm in ("linf", "l2"):
        model = Linear()
        distances = model.distances(norm)
        rows = np.arange(len(model.y))
        logits = np.asarray(model.logits(model.x), np.float64)
        for share, broken in ((0.99, False), (1.01, True)):
            flipped = np.zeros(len(model.y), bool)
            for target in range(logits.shape[1]):
                w = (model.weights[:, target][None] - model.weights[:, model.y].T).astype(np.float64)
                unit = np.sign(w) if norm == "linf" else w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-12)
                moved = model.x + (share * distances[:, None] * unit).reshape(model.x.shape)
                flipped |= np.asarray(jnp.argmax(model.logits(moved.astype(np.float32)), -1)) != model.y
            assert (flipped == broken).all(), (norm, share, rows[flipped != broken])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_are_in_reach_of_the_box(norm):
    assert (Linear().distances(norm) < 0.3 if norm == "linf" else Linear().distances(norm) < 2).all()
