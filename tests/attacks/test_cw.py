import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks.cw import CWLinf
from morel_jax.attacks.keys import fold_in_each
from tests.attacks.linear import Linear

KEY = jax.random.key(0)
MODEL = Linear(count=12)
# The nearest images are 0.007 to 0.037 away: this goes well beyond them, and a little at a time.
STEADY = CWLinf(learning_rate=0.02, max_iter=12, initial_const=5.0)


@jax.jit
def run(attack, x=MODEL.x, y=MODEL.y, key=KEY):
    return attack.run(MODEL.logits, key, x, y)


def wrong(x_adv):
    return np.argmax(MODEL.logits(x_adv), -1) != MODEL.y


def distances(x_adv, x=MODEL.x):
    return np.abs(x_adv - x).max(axis=(1, 2, 3))


def test_finds_the_nearest_image_of_a_linear_model():
    """To 8 %, as tanh makes the brightest and darkest pixels slower, and to 3 % where all are as bright."""
    attack = CWLinf(learning_rate=3e-4, max_iter=400, initial_const=20.0, largest_const=21.0)
    state = run(attack)
    assert wrong(state.x_adv).all()
    ratio = distances(state.x_adv) / MODEL.distances("linf")
    assert (0.999 < ratio).all()
    assert (ratio < 1.08).all()

    grey = Linear(count=1)
    grey.x = np.full_like(grey.x, 0.5)
    grey.y = np.argmax(grey.logits(grey.x), -1)
    x_adv = attack(grey.logits, KEY, grey.x, grey.y)
    assert grey.distances("linf") * 0.999 < distances(x_adv, grey.x) < grey.distances("linf") * 1.03


def test_found_images_are_adversarial_and_in_the_box():
    state = run(STEADY)
    assert state.found.all()
    assert wrong(state.x_adv).all()
    np.testing.assert_allclose(state.distance, distances(state.x_adv), atol=1e-7)
    assert state.x_adv.min() >= 0
    assert state.x_adv.max() <= 1


def test_lower_taus_bring_nearer_images():
    """The first descent goes on until the lead is as asked for; a factor next to 0 ends the attack there.

    The logits are so small that a pixel beyond tau is pulled back harder than classification pulls it on.
    """
    @jax.jit
    def nearest(decrease_factor):
        attack = STEADY.replace(confidence=1.0, decrease_factor=decrease_factor)
        return attack.run(lambda x: MODEL.logits(x) / 4, KEY, MODEL.x, MODEL.y)

    first, last = nearest(1e-6), nearest(0.9)
    assert first.found.all()
    assert (last.distance < 0.95 * first.distance).all()


def test_confidence_goes_further():
    assert (distances(run(STEADY.replace(confidence=1.0)).x_adv) > distances(run(STEADY).x_adv)).all()


@pytest.mark.parametrize(("max_iter", "largest_const", "const_factor", "steps"), [
    (4, 7.0, 2.0, 1 + 3 * 4),  # Constants 1, 2, 4. All begin at the same point, which is evaluated once.
    (4, 8.0, 2.0, 1 + 3 * 4),  # 8 is not below 8.
    (4, 7.0, 1.0, 1 + 4),  # A constant that stays would be tried for ever.
    (1, 7.0, 2.0, 1 + 3),
    (0, 7.0, 2.0, 3),
    (4, 1.0, 2.0, 0),
])
def test_steps_where_nothing_is_found(max_iter, largest_const, const_factor, steps):
    """A learning rate too small to get anywhere; images come back unchanged."""
    state = run(CWLinf(learning_rate=1e-6, max_iter=max_iter, initial_const=1.0, largest_const=largest_const,
                       const_factor=const_factor))
    assert not state.found.any()
    assert (state.steps == steps).all()
    np.testing.assert_array_equal(state.x_adv, MODEL.x)


def test_a_descent_ends_when_its_loss_is_low():
    """With a constant next to zero the loss is low after one step."""
    state = run(CWLinf(learning_rate=1e-6, max_iter=50, initial_const=1e-6, largest_const=1.5e-6))
    assert (state.steps == 2).all()


def test_misclassified_images_are_left_alone():
    y = np.where(np.arange(12) % 2, MODEL.y, (MODEL.y + 1) % 5)
    state = run(STEADY, MODEL.x, y)
    assert state.found.all()
    assert (np.asarray(state.steps)[::2] == 0).all()
    np.testing.assert_array_equal(state.x_adv[::2], MODEL.x[::2])
    assert (distances(state.x_adv)[1::2] > 0).all()


def test_radius():
    """In the ball, and found only what is still adversarial there."""
    free = run(STEADY)
    epsilon = float(np.median(free.distance))
    state = run(STEADY.replace(epsilon=epsilon))
    assert (distances(state.x_adv) <= epsilon + 1e-6).all()
    assert state.x_adv.min() >= 0
    assert state.x_adv.max() <= 1
    found = np.asarray(state.found)
    np.testing.assert_array_equal(wrong(state.x_adv), found)
    np.testing.assert_array_equal(state.x_adv[~found], MODEL.x[~found])
    np.testing.assert_array_equal(found, wrong(np.clip(free.x_adv, MODEL.x - epsilon, MODEL.x + epsilon)))
    inside = np.asarray(free.distance <= epsilon)
    assert not found.all()
    assert found[~inside].any()
    np.testing.assert_allclose(state.x_adv[inside], free.x_adv[inside], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(state.steps, free.steps + ~inside)  # One evaluation of the projected image.


@pytest.mark.slow  # Bit for bit as users compile: under the fast tests' flags the two programs may round otherwise.
def test_radius_leaves_what_is_inside_already_as_it_was():
    free = run(STEADY)
    epsilon = float(np.median(free.distance))
    inside = np.asarray(free.distance <= epsilon)
    assert inside.any()
    np.testing.assert_array_equal(run(STEADY.replace(epsilon=epsilon)).x_adv[inside], free.x_adv[inside])


def test_an_example_does_not_depend_on_its_batch():
    keys = fold_in_each(KEY, jnp.arange(12))
    attack = STEADY.replace(epsilon=0.02)
    whole = run(attack, MODEL.x, MODEL.y, keys)
    parts = [run(attack, MODEL.x[i:i + 4], MODEL.y[i:i + 4], keys[i:i + 4]) for i in range(0, 12, 4)]
    np.testing.assert_allclose(whole.x_adv, np.concatenate([part.x_adv for part in parts]), atol=1e-6)
    np.testing.assert_array_equal(whole.steps, np.concatenate([part.steps for part in parts]))


def test_one_compile_for_all_numbers():
    @jax.jit
    @chex.assert_max_traces(1)
    def count(attack):
        return attack.run(MODEL.logits, KEY, MODEL.x, MODEL.y).found.sum()

    numbers = dict(confidence=0.0, learning_rate=0.02, decrease_factor=0.9, initial_const=5.0, largest_const=20.0,
                   const_factor=2.0, epsilon=0.02)
    counts = [int(count(CWLinf(**jax.tree.map(np.float32, numbers | change)))) for change in (
        {}, dict(confidence=1.0), dict(learning_rate=1e-4), dict(decrease_factor=0.5), dict(initial_const=30.0),
        dict(largest_const=50.0), dict(const_factor=3.0), dict(epsilon=0.001))]
    assert counts[0] > 0
    assert counts[2] == counts[4] == counts[7] == 0


def test_no_gradient_flows_through_the_attack():
    def loss(scale):
        return STEADY(lambda z: scale * MODEL.logits(z), KEY, MODEL.x, MODEL.y).sum()

    assert jax.jit(jax.grad(loss))(1.0) == 0


def test_errors():
    with pytest.raises(ValueError, match="max_iter must be at least 0; got -1"):
        run(CWLinf(max_iter=-1))
