import chex
import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.attacks.fmn import DDN, FMN, FMNTargeted
from tests.attacks.linear import Linear
from tests.attacks.test_nearest import KEY, MODEL, run

X, Y = np.full((1, 1, 1, 1), 0.3, np.float32), np.zeros(1, int)


def points(attack):
    """The values at which the network of one pixel, with its boundary at 0.5, is evaluated."""
    seen = []

    def logits_fn(x):
        jax.debug.callback(lambda value: seen.append(float(value)), x[0, 0, 0, 0], ordered=True)
        return jnp.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], axis=-1)

    state = attack.run(logits_fn, KEY, X, Y)
    jax.effects_barrier()
    return seen[1:], state  # Without the pass before the first step.


def test_the_order_of_events_of_ddn():
    """The perturbation has the radius as its length: 0.11, 0.121 and beyond the boundary; then a tenth less."""
    seen, state = points(DDN(num_steps=7, gamma=0.1, first_radius=0.15))
    lengths = [0, 0.165, 0.1815, 0.19965, 0.219615, 0.219615 * 0.9, 0.219615 * 0.99]
    np.testing.assert_allclose(seen, 0.3 + np.array(lengths), rtol=1e-5)
    np.testing.assert_allclose(state.best_distance, 0.219615 * 0.99, rtol=1e-5)
    np.testing.assert_allclose(state.steps, 7)


def test_the_order_of_events_of_fmn():
    """To the linearised boundary at 0.2, a tie; a fraction gamma farther; and by gamma nearer from there on."""
    seen, state = points(FMN(num_steps=4, gamma=0.1))
    share = np.arange(4) / 4
    gamma = 0.001 + 0.099 * (1 + np.cos(np.pi * share)) / 2
    second = 0.2 * (1 + gamma[1])
    np.testing.assert_allclose(seen, 0.3 + np.array([0, 0.2, second, second * (1 - gamma[2])]), rtol=1e-5)
    np.testing.assert_allclose(state.best_distance, second * (1 - gamma[2]), rtol=1e-5)


def test_one_compile_for_all_numbers():
    @jax.jit
    @chex.assert_max_traces(1)
    def distance(attack):
        return attack.run(MODEL.logits, KEY, MODEL.x, MODEL.y).best_distance.mean()

    found = [distance(DDN(10, step_size=np.float32(1), gamma=np.float32(gamma), first_radius=np.float32(1)))
             for gamma in (0.05, 0.1, 0.3)]
    assert len(set(map(float, found))) == 3


def test_a_saturated_network_still_shows_the_way():
    """The cross-entropy's gradient is about 1e-30 here, whose square is zero in float32."""
    def saturated(x):
        return MODEL.logits(x) + 70 * jnp.sign(MODEL.logits(x) - MODEL.logits(x).mean(-1, keepdims=True)) / 2

    state = run(DDN(), saturated, KEY, MODEL.x, MODEL.y)
    assert state.found.all()
    assert (state.best_distance <= 1.06 * MODEL.distances("l2")).all()


def test_targets_are_tried_one_after_another_and_the_nearest_counts():
    """In a linear model, where the likeliest wrong class is not always the nearest: FMN's local optimum, and its way
    out."""
    model = Linear(classes=8, seed=4)
    one, all_of_them = (run(FMNTargeted(40, targets), model.logits, KEY, model.x, model.y) for targets in (1, 9))
    expected = model.distances("linf")
    assert (one.steps == 40).all()
    assert (all_of_them.steps == 7 * 40).all()
    assert (one.best_distance > 1.05 * expected).any()
    np.testing.assert_allclose(all_of_them.best_distance, expected, rtol=0.005)
    assert (all_of_them.best_distance <= one.best_distance).all()
