import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import attacks
from morel_jax.attacks.norms import largest_radius, norm
from morel_jax.models import Outputs
from tests.attacks.linear import Linear
from tests.small import mostly_slow

MODEL = Linear(shape=(3, 3, 1), count=6)
KEY = jax.random.key(0)
EPSILON = 0.1
# Every public attack, with few steps.
ATTACKS = {
    "fgsm": attacks.FGSM(EPSILON),
    "pgd": attacks.PGD(EPSILON, EPSILON / 2, num_steps=2),
    "pgd-restarts": attacks.PGD(EPSILON, EPSILON / 2, num_steps=2, num_restarts=2, loss="dlr"),
    "apgd": attacks.APGD(EPSILON, num_steps=3),
    "apgd-l2": attacks.APGD(0.4, num_steps=3, loss="dlr", norm="l2"),
    "apgd-t": attacks.APGDTargeted(EPSILON, num_steps=3, num_targets=2),
    "fab": attacks.FAB(EPSILON, num_steps=2),
    "fab-t": attacks.FABTargeted(EPSILON, num_steps=2, num_targets=2),
    "fab-t-l2": attacks.FABTargeted(0.4, num_steps=2, num_targets=2, norm="l2"),
    "square": attacks.Square(EPSILON, num_queries=8),
    "square-l2": attacks.Square(0.4, num_queries=8, norm="l2"),
    "cw": attacks.CWLinf(confidence=1.0, initial_const=15.0, max_iter=3, epsilon=EPSILON),
    "autoattack": attacks.AutoAttack(EPSILON, version="custom", attacks=("square",)),
    "fmn": attacks.FMN(num_steps=12),
    "fmn-t": attacks.FMNTargeted(num_steps=12, num_targets=2),
    "ddn": attacks.DDN(num_steps=12),
    "cw-l2": attacks.CWL2(max_iter=5, num_searches=3, learning_rate=0.1, initial_const=1.0),
}
# One of each algorithm.
FAST = ("pgd", "apgd", "fab-t", "square", "cw")


# Half precision takes one path, whichever its type; of 64 bits the counters matter, which Square has.
@pytest.mark.parametrize(("name", "dtype"), mostly_slow(
    itertools.product(ATTACKS, ("float16", "bfloat16", "float64")),
    *((name, "float16") for name in FAST), ("pgd", "bfloat16"), ("square", "float64")))
def test_images_of_any_float_type_keep_it_in_ball_and_box(name, dtype):
    attack = ATTACKS[name]
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(MODEL.x.astype(dtype))
        y = np.argmax(MODEL.logits(x), axis=-1).astype(np.int32)
        x_adv = jax.jit(lambda x, y: attack(lambda x: MODEL.logits(x).astype(x.dtype), KEY, x, y))(x, y)
        assert x_adv.dtype == x.dtype
        x_adv, x = (np.asarray(images).astype(np.float64 if dtype == "float64" else np.float32)
                    for images in (x_adv, x))
        assert np.all((x_adv >= 0) & (x_adv <= 1))
        ball = getattr(attack, "norm", "linf")
        radius = getattr(attack, "epsilon", largest_radius(ball, x.shape[1:])) * (1 + 1e-6)
        assert np.all(norm(ball).distance(x_adv, x) <= radius)
        assert np.any(x_adv != x)


def test_a_network_in_half_precision_serves_every_attack_on_float32_images():
    for name in ("apgd", "fab-t", "square"):
        x_adv = jax.jit(functools.partial(ATTACKS[name], lambda x: MODEL.logits(x).astype(jnp.bfloat16), KEY))(
            MODEL.x, MODEL.y)
        assert x_adv.dtype == np.float32


def test_half_precision_images_are_judged_as_they_are_returned():
    """What an attack has found, it has found on the rounded image: none that counts is right after all."""
    x = jnp.asarray(MODEL.x, jnp.bfloat16)
    y = jnp.argmax(MODEL.logits(x), axis=-1)
    state = jax.jit(lambda x, y: attacks.APGD(0.3, num_steps=5).run(MODEL.logits, KEY, x, y))(x, y)
    assert np.any(state.found)
    np.testing.assert_array_equal(jnp.argmax(MODEL.logits(state.x_adv), axis=-1) != y, state.found)


def test_numbers_of_another_type_do_not_change_the_images():
    with jax.enable_x64(True):
        for epsilon in (np.float64(EPSILON), jnp.float64(EPSILON), jnp.bfloat16(EPSILON)):
            attack = functools.partial(attacks.FGSM(epsilon), MODEL.logits, KEY)
            assert jax.eval_shape(attack, MODEL.x, MODEL.y).dtype == np.float32


@pytest.mark.parametrize(("changes", "message"), [
    (dict(x=MODEL.x * 255), r"x must be in \[0, 1\]; got values from .* to .*"),
    (dict(x=MODEL.x * 0 + np.float32(1 + 1e-6)), r"x must be in \[0, 1\]; got values from 1.00000095 to 1.00000095"),
    (dict(x=MODEL.x * np.nan), r"x must be in \[0, 1\]; got values from nan"),
    (dict(x=(MODEL.x * 255).astype(np.uint8)), r"x must be floats in \[0, 1\]; got uint8; divide uint8 images by 255"),
    (dict(x=MODEL.x[0, 0, 0]), r"x must have shape \[n, ...\], one image per row; got \(1,\)"),
    (dict(y=np.eye(5)[MODEL.y]), r"y must have shape \[6\].* got \(6, 5\); of one-hot labels take the argmax"),
    (dict(y=MODEL.y[:, None]), r"y must have shape \[6\], a class for each image; got \(6, 1\)"),
    (dict(y=MODEL.y[:4]), r"y must have shape \[6\], a class for each image; got \(4,\)"),
    (dict(y=MODEL.y.astype(np.float32)), "y must be integers; got float32"),
    (dict(y=MODEL.y + 5), r"y must be in 0 .. 4, the network's classes; got values from [56] to"),
    (dict(y=-1 - MODEL.y), r"y must be in 0 .. 4, the network's classes; got values from -"),
    (dict(logits_fn=lambda x: Outputs(x, MODEL.logits(x))), "one array of logits; got Outputs; return its logits"),
    (dict(logits_fn=lambda x: MODEL.logits(x)[0]), r"floats of shape \[6, classes\]; got float32\[5\]"),
    (dict(logits_fn=lambda x: MODEL.logits(x)[:3]), r"floats of shape \[6, classes\]; got float32\[3, 5\]"),
])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "square", "autoattack"])  # All others begin as Square does.
def test_wrong_calls_are_one_clear_error(name, changes, message):
    call = dict(logits_fn=MODEL.logits, key=KEY, x=MODEL.x, y=MODEL.y) | changes
    with pytest.raises(ValueError, match=message):
        ATTACKS[name](**call)


@pytest.mark.parametrize(("attack", "message"), [
    (attacks.FGSM(2.0), r"epsilon must be at most 1 in Linf.*; got 2.0"),
    (attacks.FGSM(8), "epsilon must be at most 1"),
    (attacks.FGSM(np.nan), "epsilon must be a finite number of at least 0; got nan"),
    (attacks.FGSM(-0.1), "epsilon must be a finite number of at least 0; got -0.1"),
    (attacks.FGSM("0.1"), "epsilon must be a finite number of at least 0; got 0.1"),
    (attacks.FGSM(np.ones(3)), r"epsilon must be one number; got shape \(3,\)"),
    (attacks.AutoAttack(np.inf, norm="l2"), "epsilon must be a finite number of at least 0; got inf"),
    (attacks.PGD(0.1, 0.0), "step_size must be a finite number above 0; got 0.0"),
    (attacks.PGD(0.1, jnp.float32(np.nan)), "step_size must be a finite number above 0; got nan"),
    (attacks.PGD(0.1, -0.01), "step_size must be a finite number above 0; got -0.01"),
    (attacks.PGD(0.1, 0.1, num_steps=-1), "num_steps must be at least 0; got -1"),
    (attacks.PGD(0.1, 0.1, num_steps=2.5), "num_steps must be an integer; got 2.5"),
    (attacks.APGD(0.1, num_steps=-3), "num_steps must be at least 0; got -3"),
    (attacks.APGDTargeted(0.1, num_targets=0), "num_targets must be at least 1; got 0"),
    (attacks.Square(0.1, p_init=0.0), r"p_init must be in \(0, 1\]; got 0.0"),
    (attacks.FAB(0.1, beta=1.5), r"beta must be in \[0, 1\]; got 1.5"),
    (attacks.CWLinf(learning_rate=0.0), "learning_rate must be a finite number above 0; got 0.0"),
    (attacks.CWLinf(decrease_factor=1.0), r"decrease_factor must be in \(0, 1\); got 1.0"),
])
def test_numbers_that_make_no_sense_are_named(attack, message):
    with pytest.raises(ValueError, match=message):
        attack(MODEL.logits, KEY, MODEL.x, MODEL.y)


def test_an_l2_radius_may_be_larger_than_the_box():
    attack = attacks.APGD(3.0, num_steps=1, norm="l2")
    x_adv = jax.eval_shape(functools.partial(attack, MODEL.logits, KEY), MODEL.x, MODEL.y)
    assert x_adv.shape == MODEL.x.shape


def test_in_a_compiled_program_shapes_and_types_are_checked_and_values_pass():
    @jax.jit
    def run(epsilon, x, y):
        return attacks.PGD(epsilon, epsilon, num_steps=1)(MODEL.logits, KEY, x, y)

    assert run(8.0, MODEL.x * 255, MODEL.y).shape == MODEL.x.shape
    with pytest.raises(ValueError, match=r"y must have shape \[6\]"):
        run(0.1, MODEL.x, MODEL.y[:, None])
    # What a traced program closes over is known, and checked.
    with pytest.raises(ValueError, match=r"x must be in \[0, 1\]"):
        jax.jit(lambda epsilon: attacks.FGSM(epsilon)(MODEL.logits, KEY, MODEL.x * 255, MODEL.y))(0.1)


@pytest.mark.parametrize("name", ["fab", "square", "autoattack"])
def test_a_network_of_nan_is_refused(name):
    def partly_nan(x):
        return MODEL.logits(x).at[:2].set(jnp.nan)

    with pytest.raises(ValueError, match="finite logits on the clean images; got NaN or infinity on 2 of 6 images"):
        ATTACKS[name](partly_nan, KEY, MODEL.x, MODEL.y)


@pytest.mark.parametrize("name", mostly_slow(ATTACKS, *FAST))
def test_logits_that_are_not_finite_are_no_success(name):
    """Off the clean images nothing is finite: nothing is found, and no image becomes NaN."""
    def only_clean(x):
        moved = jnp.max(jnp.abs(x - MODEL.x), axis=(1, 2, 3), keepdims=True)[:, 0, 0] > 1e-6
        return jnp.where(moved, jnp.nan, MODEL.logits(x))

    x_adv = jax.jit(functools.partial(ATTACKS[name], only_clean, KEY))(MODEL.x, MODEL.y)
    assert np.all(np.isfinite(x_adv))
    if not name.startswith(("fgsm", "pgd")):  # They return where they end, found or not.
        np.testing.assert_array_equal(x_adv, MODEL.x)
