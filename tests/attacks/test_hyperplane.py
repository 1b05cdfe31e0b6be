import jax
import numpy as np
import pytest

from morel_jax.attacks.hyperplane import project_l2, project_linf

PROJECTIONS = {"linf": jax.jit(project_linf), "l2": jax.jit(project_l2)}


def problems(count=200, size=30, seed=0):
    """Random points, a third of their pixels on the box's edge, and planes near and far, a fifth of the weights 0."""
    random = np.random.default_rng(seed)
    x = random.random((count, size))
    x = np.where(random.random(x.shape) < 0.3, np.round(x), x).astype(np.float32)
    w = (random.normal(size=x.shape) * 10.0 ** random.uniform(-3, 3, x.shape)).astype(np.float32)
    w[random.random(x.shape) < 0.2] = 0
    reach = np.where(w > 0, w, 0).sum(-1), np.where(w < 0, w, 0).sum(-1)
    b = (reach[1] + (reach[0] - reach[1]) * random.uniform(-0.2, 1.2, count)).astype(np.float32)
    return x, w, b


def bisect(x, w, b, norm):
    """The same moves in float64, by halving."""
    x, w, b = (np.asarray(a, np.float64) for a in (x, w, b))
    above = (w * x).sum(-1) - b
    direction = -np.sign(w) * np.where(above >= 0, 1, -1)[:, None]
    room = np.where(direction == 0, 0, np.where(direction > 0, 1 - x, x))
    speeds = np.abs(w) if norm == "l2" else np.ones_like(w)
    low, high = np.zeros(len(x)), np.full(len(x), 1e12)
    for _ in range(200):
        middle = (low + high) / 2
        covered = (np.abs(w) * np.minimum(middle[:, None] * speeds, room)).sum(-1)
        low, high = np.where(covered < np.abs(above), middle, low), np.where(covered < np.abs(above), high, middle)
    return direction * np.minimum(high[:, None] * speeds, room)


def length(moves, norm):
    return np.abs(moves).max(-1) if norm == "linf" else np.sqrt((moves**2).sum(-1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [1, 30, 784])
def test_moves_as_bisection_says(norm, size):
    x, w, b = problems(size=size)
    moves = np.asarray(PROJECTIONS[norm](x, w, b), np.float64)
    expected = bisect(x, w, b, norm)
    np.testing.assert_allclose(length(moves, norm), length(expected, norm), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moves, expected, rtol=1e-3, atol=1e-4)
    assert (x + moves).min() >= -1e-6
    assert (x + moves).max() <= 1 + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_reaches_the_plane_or_the_corner_nearest_to_it(norm):
    x, w, b = problems()
    moves = np.asarray(PROJECTIONS[norm](x, w, b), np.float64)
    highest, lowest = np.where(w > 0, w, 0).sum(-1), np.where(w < 0, w, 0).sum(-1)
    meets = (b <= highest) & (b >= lowest)
    assert 0.5 < meets.mean() < 0.9
    reached = ((x + moves) * w).sum(-1)
    np.testing.assert_allclose(reached / np.abs(w).sum(-1), np.clip(b, lowest, highest) / np.abs(w).sum(-1), atol=1e-6)
    corners = np.where(w > 0, b[:, None] > highest[:, None], b[:, None] < lowest[:, None])
    np.testing.assert_allclose((x + moves)[~meets][w[~meets] != 0], corners[~meets][w[~meets] != 0], atol=1e-6)
    assert (moves[w == 0] == 0).all()


@pytest.mark.parametrize(("norm", "expected"), [("linf", [0.1, 0.25, -0.25, 0.0]), ("l2", [0.1, 0.28, -0.14, 0.0])])
def test_by_hand(norm, expected):
    """The first pixel meets the box after 0.1; what is left of the way, 0.7 or 0.75, is for the others."""
    x, w = np.float32([[0.9, 0.5, 0.5, 0.5]]), np.float32([[1, 2, -1, 0]])
    b = np.sum(x * w, -1) + np.sum(w * expected, -1, dtype=np.float32)
    np.testing.assert_allclose(PROJECTIONS[norm](x, w, b), [expected], atol=1e-6)


@pytest.mark.parametrize("project", PROJECTIONS.values())
def test_degenerate_rows(project):
    x = np.full((5, 4), 0.5, np.float32)
    w = np.float32([[0, 0, 0, 0], [0, 0, 0, 0], [1, -2, 0, 3], [1e-30, -1e-30, 0, 0], [1e30, -1e-30, 1e10, 0]])
    b = np.float32([0, 1, 1, 2e-31, 6e29])
    moves = np.asarray(project(x, w, b))
    np.testing.assert_array_equal(moves[:2], 0)  # No normal.
    np.testing.assert_allclose(moves[2], 0, atol=1e-7)  # On the plane already.
    np.testing.assert_allclose(moves[3], [0.1, -0.1, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(moves[4, 0], 0.1, rtol=1e-5)
    assert np.isfinite(moves).all()
    corner = np.float32([[0, 1, 1, 0]])
    np.testing.assert_array_equal(project(corner, np.float32([[-1, 1, 2, -1]]), np.float32([9])), [[0, 0, 0, 0]])


@pytest.mark.parametrize("project", PROJECTIONS.values())
def test_a_row_does_not_depend_on_its_batch(project):
    x, w, b = problems(count=40)
    order = np.random.default_rng(1).permutation(20)
    first = np.asarray(project(x[:20], w[:20], b[:20]))
    for rows in (np.arange(20)[::-1], order):
        np.testing.assert_array_equal(np.asarray(project(x[rows], w[rows], b[rows])), first[rows])
    mixed = np.concatenate([[3], np.arange(20, 39)])
    np.testing.assert_array_equal(np.asarray(project(x[mixed], w[mixed], b[mixed]))[0], first[3])


@pytest.mark.parametrize("project", PROJECTIONS.values())
def test_vmap_equals_one_batch(project):
    x, w, b = problems(count=12)
    stacked = jax.jit(jax.vmap(project))(x.reshape(3, 4, -1), w.reshape(3, 4, -1), b.reshape(3, 4))
    np.testing.assert_allclose(stacked.reshape(x.shape), project(x, w, b), atol=1e-6)
