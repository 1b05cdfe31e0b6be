"""Square Attack against the published code, installed as ``pyautoattack``: its pieces exactly, its outcome closely."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack

from morel_jax.attacks import square, square_l2
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.square import Square, side_lengths

pytestmark = pytest.mark.parity

NAMES = {"linf": "Linf", "l2": "L2"}
EPSILON = {"linf": 0.012, "l2": 0.22}


@pytest.fixture(autouse=True)
def _one_thread():
    """Many small operations: PyTorch's threads would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Problem:
    """A small random network with two layers in JAX and in PyTorch, and images that it calls right."""

    def __init__(self, count=200, size=15, channels=2, classes=4):
        random = np.random.default_rng(0)
        smooth = np.exp(-0.5 * (np.arange(size)[:, None] - np.arange(size)) ** 2 / 1.5**2)
        first = random.normal(size=(size, size, channels, 64))
        first = np.einsum("ij,kl,jlcf->ikcf", smooth, smooth, first)
        self.first = np.float32(0.05 * first.reshape(-1, 64))
        self.second = np.float32(random.normal(size=(64, classes)))
        self.bias = -0.5 * self.first.sum(0)
        self.x = np.float32(random.random((count, size, size, channels)))
        self.y = np.array(jnp.argmax(self.logits(self.x), axis=-1), np.int32)

    def logits(self, x):
        """float[n, h, w, c] -> float[n, classes]."""
        return jnp.tanh(x.reshape(len(x), -1) @ self.first + self.bias) @ self.second

    def torch_logits(self, x):
        """float[n, c, h, w] -> float[n, classes]."""
        features = x.permute(0, 2, 3, 1).reshape(len(x), -1) @ torch.from_numpy(self.first)
        return torch.tanh(features + torch.from_numpy(self.bias)) @ torch.from_numpy(self.second)


def to_torch(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def published(logits, norm, num_queries, cls=SquareAttack, **fields):
    return cls(logits, norm=NAMES[norm], n_queries=num_queries, eps=EPSILON[norm], p_init=0.8, n_restarts=1, seed=0,
               resc_schedule=False, device="cpu", **fields)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_breaks_what_the_published_code_breaks(norm):
    problem, queries = Problem(), 300
    keys = fold_in_each(jax.random.key(0), jnp.arange(len(problem.x)))
    attack = Square(EPSILON[norm], queries, norm)
    state = jax.jit(lambda x, y: attack.run(problem.logits, keys, x, y))(problem.x, problem.y)
    theirs = published(problem.torch_logits, norm, queries).perturb(to_torch(problem.x), torch.from_numpy(problem.y))
    broken = np.asarray(state.found)
    broken_theirs = (problem.torch_logits(theirs).argmax(1) != torch.from_numpy(problem.y)).numpy()
    assert 0.2 < broken_theirs.mean() < 0.8
    # Random searches agree on all but the borderline: seeds of either code differ by as much.
    assert abs(broken.mean() - broken_theirs.mean()) <= 0.03
    assert np.mean(broken != broken_theirs) <= 0.06


@pytest.mark.parametrize("rescale", [False, True])
def test_sides(rescale):
    attack = SquareAttack(None, p_init=0.8, n_queries=3000, resc_schedule=rescale)
    shares = [attack.p_selection(number) for number in range(3000)]
    expected = [min(max(round(np.sqrt(share * 31 * 17)), 1), 17) for share in shares]
    np.testing.assert_array_equal(side_lengths(3000, 31, 17, "linf", 0.8, rescale)[1:], expected)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 25, 44])
def test_patterns(side):
    pattern = square_l2.pattern(side)
    theirs = published(None, "l2", 1).eta(side).numpy()
    assert np.allclose(theirs, pattern, atol=1e-6) or np.allclose(theirs, pattern.T, atol=1e-6)


class Scripted(SquareAttack):
    """The published attack with its draws written down: squares at places in turn, upright patterns, its own signs."""

    def __init__(self, *args, **fields):
        super().__init__(*args, **fields)
        self.places, self.signs = scripted_places(), []

    def random_int(self, low=0, high=1, shape=(1,)):
        return torch.tensor([next(self.places)]).clamp(max=max(int(high), 1) - 1)

    def random_choice(self, shape):
        self.signs.append(super().random_choice(shape))
        return self.signs[-1]

    def eta(self, s):
        return torch.from_numpy(square_l2.pattern(s))


def scripted_places():
    return itertools.cycle([5, 2, 1, 3, 0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_proposals(norm):
    """Each image that the published code tries, made by ours from the one before it."""
    x, epsilon, tried = Problem(count=6).x, EPSILON[norm], []

    def better_and_better(images):
        tried.append(np.moveaxis(images.numpy().copy(), 1, -1))
        return torch.tensor([[5.0 - 0.1 * len(tried), 0.0]]).repeat(len(images), 1)

    theirs = published(better_and_better, norm, 30, Scripted)
    theirs.perturb(to_torch(x), torch.zeros(6, dtype=torch.long))
    tried = tried[1:-1]  # Between the clean images and the outcome: the start and 30 proposals.
    signs = [np.moveaxis(sign.numpy(), -3, -1) for sign in theirs.signs[-30:]]
    places, sides = scripted_places(), side_lengths(30, 15, 15, norm)[1:]

    @jax.jit
    def propose(best, sign, side, corners, pattern):
        into, out_of = (square._window(top, left, side, 15, 15) for top, left in corners)
        if norm == "linf":
            return jnp.where(into, square._extreme(sign > 0, x, epsilon), best)
        pattern = square_l2.placed(pattern, jnp.array([0]), *corners[0], jnp.array([False]), 15, 15)
        return square_l2.move(best, x, epsilon, jnp.where(into, pattern[..., None] * sign, 0), into, out_of)

    for best, expected, sign, side in zip(tried[:-1], tried[1:], signs, sides, strict=True):
        drawn = [min(next(places), max(15 - side, 1) - 1) for _ in range({"linf": 2, "l2": 4}[norm])]
        corners = np.array([drawn[:2], drawn[-2:]])[..., None]
        ours = propose(best, sign, np.array([side]), corners, square_l2.patterns((side, 15))[:1])
        np.testing.assert_allclose(ours, expected, atol=2e-6)
