import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import square, square_l2
from morel_jax.attacks.iterative import select
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.norms import norm as norm_of
from morel_jax.attacks.square import Square, side_lengths
from tests.attacks.linear import Linear
from tests.small import mostly_slow

NORMS = ["linf", "l2"]

linear = functools.cache(Linear)  # One object a problem: each program on it is compiled once.


def keys_of(count, seed=0):
    return fold_in_each(jax.random.key(seed), jnp.arange(count))


def column(values):
    """One radius for each row of images."""
    return np.float32(values).reshape(-1, 1, 1, 1)


@functools.partial(jax.jit, static_argnums=0)
def run(logits_fn, attack, keys, x, y):
    return attack.run(logits_fn, keys, x, y)


@functools.partial(jax.jit, static_argnums=(0, 5))
def trajectory(logits_fn, attack, keys, x, y, steps):
    """The states after 0, 1, .. ``steps`` steps, each field stacked."""
    def advance(state, _):
        return attack.advance(logits_fn, keys, x, y, state), state

    last, before = jax.lax.scan(advance, attack.first(logits_fn, keys, x, y), length=steps)
    return jax.tree.map(lambda some, one: jnp.concatenate([some, one[None]]), before, last)


def coins_of(count, seed=0):
    """Random booleans[count, number], as an attack's start draws them."""
    return lambda number: jnp.asarray(np.random.default_rng(seed).random((count, number)) < 0.5)


class TestSides:
    """By hand: the side is round(sqrt(share * h * w)); the share 0.8 halves after queries 10, 50, 200, ..., from 0."""

    @pytest.mark.parametrize(("size", "expected"), [
        (32, [29, 20, 14, 10, 7, 5, 4, 3]),  # sqrt(819.2) = 28.6, 20.2, 14.3, 10.1, 7.2, 5.06, 3.6, 2.5
        (28, [25, 18, 13, 9, 6, 4, 3, 2]),   # sqrt(627.2) = 25.04, 17.7, 12.5, 8.9, 6.3, 4.4, 3.1, 2.2
    ])
    def test_linf(self, size, expected):
        sides = side_lengths(5000, size, size)
        assert sides.shape == (5001,)
        last = [10, 50, 200, 500, 1000, 2000, 4000, 4999]
        assert [sides[1 + time] for time in last] == expected
        assert [sides[2 + time] for time in last[:-1]] == expected[1:]
        assert sides[0] == sides[1] == expected[0]

    @pytest.mark.parametrize(("size", "expected"), [
        (32, [29, 21, 15, 11, 7, 5, 5, 3]),
        (28, [25, 19, 13, 9, 7, 5, 3, 3]),
    ])
    def test_l2_sides_are_odd_and_at_least_three(self, size, expected):
        sides = side_lengths(5000, size, size, "l2")
        assert [sides[1 + time] for time in [10, 50, 200, 500, 1000, 2000, 4000, 4999]] == expected

    @pytest.mark.parametrize("norm", NORMS)
    def test_no_square_is_larger_than_the_image(self, norm):
        assert side_lengths(20, 4, 60, norm).max() == 4
        assert side_lengths(20, 2, 2, norm).tolist() == ([2] * 12 + [1] * 9 if norm == "linf" else [2] * 21)

    def test_rescaled_schedule_is_that_of_10000_queries(self):
        whole = side_lengths(10_000, 32, 32)[1:]
        np.testing.assert_array_equal(side_lengths(500, 32, 32, rescale_schedule=True)[1:], whole[::20])

    def test_p_init_is_the_share_of_the_first_squares(self):
        assert side_lengths(5, 20, 20, p_init=0.25)[1] == 10


class TestDraws:
    def test_places_are_uniform_and_as_published_never_reach_the_far_end(self):
        words = square._words(keys_of(3000), 2)
        top, left = square._place(words, jnp.full(3000, 3), 8, 6)
        for place, count in ((top, 5), (left, 3)):
            counts = np.bincount(place)
            assert len(counts) == count
            assert abs(counts - 3000 / count).max() < 130  # Five standard deviations.
        top, left = square._place(words, jnp.full(3000, 6), 8, 6)
        assert set(np.asarray(top)) == {0, 1}
        assert set(np.asarray(left)) == {0}

    def test_signs_are_bits(self):
        words = jnp.array([[5, 0b10]], jnp.uint32)
        assert square._sign_words(34) == 2
        assert np.flatnonzero(square._signs(words, 34)[0]).tolist() == [0, 2, 33]

    def test_window(self):
        window = square._window(jnp.array([1]), jnp.array([2]), jnp.array([2]), 5, 4)[0, ..., 0]
        expected = np.zeros((5, 4), bool)
        expected[1:3, 2:4] = True
        np.testing.assert_array_equal(window, expected)


class TestLinfProposals:
    def test_start_is_vertical_stripes_in_the_box(self):
        x = np.random.default_rng(0).random((5, 7, 9, 3)).astype(np.float32)
        start = np.asarray(square._linf_start(coins_of(5), x, 0.3))
        raised = start > x
        np.testing.assert_array_equal(raised, np.broadcast_to(raised[:, :1], x.shape))
        np.testing.assert_array_equal(start, np.where(raised, np.minimum(x + np.float32(0.3), 1),
                                                      np.maximum(x - np.float32(0.3), 0)))
        assert 0.3 < raised[:, 0].mean() < 0.7
        assert len(np.unique(raised[:, 0].reshape(5, -1), axis=0)) == 5

    def test_a_proposal_is_a_square_of_one_sign_in_each_channel(self, monkeypatch):
        monkeypatch.setattr(square, "_LOOKAHEAD", 1)
        attack = Square(0.1, num_queries=200)
        x = np.random.default_rng(0).uniform(0.3, 0.7, (40, 12, 10, 2)).astype(np.float32)
        number = jnp.arange(1, 41) * 5

        @jax.jit
        def propose():
            state = attack.first(lambda x: x[:, 0, 0], keys_of(40), x, jnp.zeros(40, int))
            return state, *square._linf_propose(attack, keys_of(40), x, state.replace(queries=number), number)

        state, point, tried = jax.device_get(propose())
        assert set(tried) == {1}
        sides = side_lengths(200, 12, 10)
        for row in range(40):
            changed = point[row] != state.best[row]
            for channel in range(2):
                rows, columns = np.nonzero(changed[..., channel])
                assert len(rows) == 0 or max(np.ptp(rows), np.ptp(columns)) < sides[5 + 5 * row]
                assert len(np.unique(np.sign(point[row] - x[row])[changed[..., channel], channel])) <= 1
        assert (point != state.best).any((1, 2, 3)).mean() > 0.5


class TestL2Proposals:
    def test_pattern_by_hand(self):
        # Halves of 1 and 2 rows by 3 columns; both peak in the middle, at 1 + 1/4, and have 1/4 around it.
        upper, lower = np.array([[1, 5, 1]]), np.array([[1, 1, 1], [1, 5, 1]])
        expected = np.concatenate([upper / np.sqrt(27), -lower / np.sqrt(30)]) / np.sqrt(2)
        np.testing.assert_allclose(square_l2.pattern(3), expected, rtol=1e-6)

    @pytest.mark.parametrize("side", [1, 2, 5, 8, 25])
    def test_patterns_have_length_one(self, side):
        assert square_l2.pattern(side).shape == (side, side)
        np.testing.assert_allclose(np.sum(square_l2.pattern(side) ** 2), 1, rtol=1e-6)

    @pytest.mark.parametrize("lying", [False, True])
    def test_patterns_are_placed(self, lying):
        table = square_l2.patterns((3, 5))
        placed = square_l2.placed(table, jnp.array([0, 1]), jnp.array([2, 0]), jnp.array([4, 1]),
                                  jnp.array([lying, lying]), 9, 8)
        small, large = (square_l2.pattern(side).T if lying else square_l2.pattern(side) for side in (3, 5))
        np.testing.assert_array_equal(placed[0, 2:5, 4:7], small)
        np.testing.assert_array_equal(placed[1, 0:5, 1:6], large)

    def test_start_is_a_grid_on_the_sphere(self):
        x = np.full((4, 28, 28, 2), 0.5, np.float32)
        delta = np.asarray(square_l2.start(coins_of(4), x, 1.5)) - 0.5
        np.testing.assert_allclose(np.sqrt((delta**2).sum((1, 2, 3))), 1.5, rtol=1e-5)
        assert not delta[:, [0, 26, 27]].any()
        assert not delta[:, :, [0, 26, 27]].any()
        tiles = delta[:, 1:26, 1:26].reshape(4, 5, 5, 5, 5, 2).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 5, 5)
        upright = square_l2.pattern(5)
        kinds = [upright, -upright, upright.T, -upright.T]
        alike = [np.isclose(tiles / np.linalg.norm(tiles, axis=(1, 2), keepdims=True), kind, atol=1e-4).all((1, 2))
                 for kind in kinds]
        np.testing.assert_array_equal(np.sum(alike, axis=0), 1)
        assert min(np.mean(alike, axis=1)) > 0.15

    def test_move_fills_the_ball_and_empties_a_window(self):
        random = np.random.default_rng(0)
        x = np.full((3, 8, 7, 2), 0.5, np.float32)
        delta = random.normal(size=x.shape).astype(np.float32)
        delta *= 0.3 / np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
        into, out_of = np.zeros((2, 3, 8, 7, 1), bool)
        into[:, 1:4, 1:4], out_of[:, 3:6, 2:5] = True, True
        fresh = np.zeros_like(x)
        fresh[:, 1:4, 1:4] = square_l2.pattern(3)[..., None]
        moved = np.asarray(square_l2.move(x + delta, x, 0.4, fresh, into, out_of)) - x
        np.testing.assert_allclose(np.sqrt((moved**2).sum((1, 2, 3))), 0.4, rtol=1e-5)
        assert not moved[np.broadcast_to(out_of & ~into, x.shape)].any()
        others = np.broadcast_to(~(into | out_of), x.shape)
        np.testing.assert_allclose(moved[others], delta[others], atol=1e-6)
        for channel in range(2):
            union = ((delta * (into | out_of)) ** 2)[..., channel].sum((1, 2))
            filled = union + (0.4**2 - 0.3**2) / 2
            np.testing.assert_allclose(((moved * into) ** 2)[..., channel].sum((1, 2)), filled, rtol=1e-4)
            window = delta[:, 1:4, 1:4, channel]
            mixed = fresh[:, 1:4, 1:4, channel] + window / np.sqrt((window**2).sum((1, 2), keepdims=True))
            there = moved[:, 1:4, 1:4, channel]
            np.testing.assert_allclose(there / np.linalg.norm(there, axis=(1, 2), keepdims=True),
                                       mixed / np.linalg.norm(mixed, axis=(1, 2), keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("shape", "norm"), mostly_slow(
    itertools.product([(6, 5, 1), (2, 7, 40)], NORMS), ((6, 5, 1), "linf"), ((2, 7, 40), "l2")))
def test_ball_and_box_hold_and_the_loss_only_falls(norm, shape):
    problem = linear(shape=shape, count=8)
    x = np.clip(3 * problem.x - 1, 0, 1)  # Some pixels at the ends of the box.
    y = np.argmax(problem.logits(x), axis=-1)
    epsilon = {"linf": 0.05, "l2": 0.2}[norm]
    states = jax.device_get(trajectory(problem.logits, Square(epsilon, 60, norm), keys_of(8), x, y, 60))
    losses = states.loss[1:]
    assert np.isfinite(losses).all()
    assert (np.diff(losses, axis=0) <= 0).all()
    assert (losses[-1] < losses[0]).any()
    for images in (*states.best, *states.x_adv):
        assert norm_of(norm).distance(images, x).max() <= epsilon + 1e-6
        assert images.min() >= 0
        assert images.max() <= 1

    logits = np.asarray(problem.logits(states.best[-1]))
    others = np.where(np.arange(5) == y[:, None], -np.inf, logits)
    np.testing.assert_allclose(losses[-1], logits[np.arange(8), y] - others.max(-1), atol=2e-6 * np.abs(logits).max())


def test_passes_saved_change_nothing(monkeypatch):
    problem = linear(shape=(5, 6, 1), count=24)
    attack = Square(problem.distances("linf").mean() * 1.5, num_queries=61, num_restarts=2)
    outcomes = {}
    for lookahead in (1, 4):
        monkeypatch.setattr(square, "_LOOKAHEAD", lookahead)
        outcomes[lookahead] = jax.jit(lambda keys: attack.run(problem.logits, keys, problem.x, problem.y))(keys_of(24))
    plain, saving = outcomes[1], outcomes[4]
    assert 0 < plain.found.sum() < 24
    for field in ("found", "x_adv", "queries", "best", "loss", "done"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(saving, field), field)
    np.testing.assert_array_equal(plain.steps, plain.queries)
    assert saving.steps.sum() < 0.9 * saving.queries.sum()
    assert (saving.steps <= saving.queries).all()


# The tests below share one program a norm: 16 examples, each with a radius of its own.
IMAGES = dict(shape=(8, 8, 1), count=16)
QUERIES = 500


def attacked(norm, factor, y=None, rows=slice(None), **fields):
    """The final state for rows of the problem, at ``factor`` times the known distance."""
    problem = linear(**IMAGES)
    attack = Square(column(problem.distances(norm) * factor)[rows], **{"num_queries": QUERIES, "norm": norm, **fields})
    return run(problem.logits, attack, keys_of(16)[rows], problem.x[rows], (problem.y if y is None else y)[rows])


@pytest.mark.parametrize("norm", NORMS)
def test_finds_what_is_there_on_a_linear_model(norm):
    problem = linear(**IMAGES)
    state = attacked(norm, 3)
    assert state.found.all()
    assert (np.argmax(problem.logits(state.x_adv), axis=-1) != problem.y).all()
    assert state.queries.max() < 1 + QUERIES


@pytest.mark.parametrize("norm", NORMS)
def test_tries_every_query_where_there_is_nothing(norm):
    state = attacked(norm, 0.9)
    assert not state.found.any()
    assert state.done.all()
    assert set(np.asarray(state.queries)) == {1 + QUERIES}
    np.testing.assert_array_equal(state.x_adv, linear(**IMAGES).x)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_zero_returns_the_images(norm):
    state = attacked(norm, 0)
    np.testing.assert_array_equal(state.x_adv, linear(**IMAGES).x)
    np.testing.assert_array_equal(state.best, linear(**IMAGES).x)
    assert set(np.asarray(state.queries)) == {1 + QUERIES}
    if norm == "linf":
        assert set(np.asarray(state.steps)) == {1 + QUERIES // 4}  # No proposal changes anything: four at a time.


@pytest.mark.parametrize("norm", NORMS)
def test_misclassified_examples_are_left_alone(norm):
    problem = linear(**IMAGES)
    state = attacked(norm, 0.9, np.where(np.arange(16) % 2, problem.y, (problem.y + 1) % 5))
    assert state.found.tolist() == [True, False] * 8
    np.testing.assert_array_equal(state.x_adv, problem.x)
    np.testing.assert_array_equal(state.steps[::2], 0)
    np.testing.assert_array_equal(state.queries[::2], 0)


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_batch(norm):
    rows = np.array([5] * 12 + [3, 0, 9, 11])
    whole, other = attacked(norm, 2.5), attacked(norm, 2.5, rows=rows)
    jax.tree.map(lambda all_rows, some: np.testing.assert_array_equal(some, all_rows[rows]), whole, other)
    assert len(np.unique(other.queries)) == 5
    assert (whole.best[3] != whole.best[5]).any()


@pytest.mark.parametrize("norm", mostly_slow(NORMS, "linf"))
def test_a_restart_begins_anew(norm):
    problem = linear(**IMAGES)
    attack = Square(column(problem.distances(norm) * 0.9), 1, norm, num_restarts=3)
    states = jax.device_get(trajectory(problem.logits, attack, keys_of(16), problem.x, problem.y, 6))
    assert np.isinf(states.loss[[0, 2, 4]]).all()
    assert np.isfinite(states.loss[[1, 3, 5, 6]]).all()
    for first, second in ((0, 2), (2, 4)):
        assert (states.best[first] != states.best[second]).any((1, 2, 3)).all()
    assert states.queries[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert states.done[-1].all()
    assert not states.done[:-1].any()


@pytest.mark.parametrize("norm", mostly_slow(NORMS, "linf"))
def test_a_restart_draws_other_squares(norm):
    problem = linear(**IMAGES)
    attack = Square(0.05, 1000, norm, num_restarts=2)
    first = jax.jit(lambda keys: attack.first(problem.logits, keys, problem.x, problem.y))(keys_of(16))
    number = np.full(16, 600)

    @jax.jit
    def proposed(queries):
        return square._SEARCHES[norm].propose(attack, keys_of(16), problem.x, first.replace(queries=queries), number)[0]

    assert (np.asarray(proposed(number)) != proposed(number + 1001)).any((1, 2, 3)).mean() > 0.8


def test_restarts_find_more_and_keep_what_one_run_finds():
    once, often = (attacked("linf", 3, num_queries=120, num_restarts=restarts) for restarts in (1, 3))
    assert 0 < once.found.sum() < often.found.sum()
    np.testing.assert_array_equal(select(once.found, often.x_adv, once.x_adv), once.x_adv)
    assert (often.queries[~often.found] == 3 * 121).all()


def test_a_tie_is_adversarial_only_where_argmax_says_so():
    y = np.array([0, 1])

    def logits_fn(x):
        clean = jnp.all(x == 0.5, axis=(1, 2, 3))[:, None]
        return jnp.where(clean, jax.nn.one_hot(y, 3), jnp.array([1.0, 1.0, 0.0]))

    state = run(logits_fn, Square(0.1, 6), keys_of(2), np.full((2, 6, 6, 1), 0.5, np.float32), y)
    assert state.found.tolist() == [False, True]
    assert state.queries.tolist() == [7, 1]


@pytest.mark.parametrize("norm", mostly_slow(NORMS, "linf"))
def test_one_compile_for_all_radii(norm):
    problem, traces = linear(count=4), []

    @jax.jit
    def best(attack, key):
        traces.append(attack)
        return attack.run(problem.logits, key, problem.x, problem.y).best

    small, large = (best(Square(np.float32(radius), 3, norm), jax.random.key(0)) for radius in (0.001, 0.01))
    assert len(traces) == 1
    assert np.abs(large - problem.x).max() > 5 * np.abs(small - problem.x).max()


@pytest.mark.parametrize(("fields", "message"), [
    (dict(norm="l1"), "norm must be one of linf, l2; got 'l1'"),
    (dict(num_queries=0), "num_queries must be at least 1; got 0"),
])
def test_errors(fields, message):
    problem = linear(count=2)
    with pytest.raises(ValueError, match=message):
        Square(0.1, **fields)(problem.logits, jax.random.key(0), problem.x, problem.y)


def test_one_class_is_an_error():
    problem = linear(classes=1, count=2)
    with pytest.raises(ValueError, match="classes"):
        run(problem.logits, Square(0.1), keys_of(2), problem.x, problem.y)
