import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.evaluation.evaluator import Evaluator, as_argument
from morel_jax.evaluation.identity import agree, fingerprint, network_record
from morel_jax.evaluation.trained import as_logits_fn
from tests.attacks.linear import Linear

MODEL = Linear(count=6)
PROGRAM = f"network_program_jax_{jax.__version__}"


def plain(weights, x):
    return x.reshape(len(x), -1) @ weights


def normalised(weights, x):
    return plain(weights, (x - 0.5) / 0.25)


def quantised(weights, x):
    return plain(weights, jnp.round(x * 8) / 8)


@jax.custom_vjp
def _straight(x):
    return jnp.round(x * 8) / 8


_straight.defvjp(lambda x: (_straight(x), None), lambda _, g: (g,))


def straight_through(weights, x):
    return plain(weights, _straight(x))


def record(logits_fn, images=MODEL.x):
    return network_record(Evaluator(as_argument(logits_fn), images, MODEL.y, 8))


def differing(one, other):
    one, other = record(one), record(other)
    assert one.keys() == other.keys() == {"network", "network_answers", PROGRAM}
    return {name for name in one if not agree(name, one[name], other[name])}


def partial(function, weights=MODEL.weights):
    return jax.tree_util.Partial(function, weights)


@pytest.mark.parametrize(("one", "other", "names"), [
    (partial(plain), partial(plain, MODEL.weights + 0), set()),
    (partial(plain), partial(plain, MODEL.weights * 1.01), {"network", "network_answers"}),
    (partial(plain), partial(plain, MODEL.weights + 1e-7), {"network"}),
    (partial(plain), partial(normalised), {"network", "network_answers", PROGRAM}),
    (partial(plain), partial(quantised), {"network", "network_answers", PROGRAM}),
    (partial(quantised), partial(straight_through), {"network", PROGRAM}),
    # Weights hidden in closures of one name.
    (lambda x: plain(MODEL.weights, x), lambda x: plain(MODEL.weights, x), set()),
    (lambda x: plain(MODEL.weights, x), lambda x: plain(MODEL.weights + 1e-7, x), {PROGRAM}),
    (lambda x: plain(MODEL.weights, x), lambda x: quantised(MODEL.weights, x), {"network_answers", PROGRAM}),
    (lambda x: quantised(MODEL.weights, x), lambda x: straight_through(MODEL.weights, x), {PROGRAM}),
])
def test_networks_are_told_apart(one, other, names):
    assert differing(one, other) == names


def test_a_rounding_defence_is_seen_on_images_that_it_leaves_alone():
    x = np.round(MODEL.x * 8) / 8
    one, other = (record(partial(function), x) for function in (plain, quantised))
    np.testing.assert_array_equal(one["network_answers"][:4], other["network_answers"][:4])
    assert not agree("network_answers", one["network_answers"], other["network_answers"])


def test_a_modules_settings_count():
    def logits_fn(**options):
        model = models.create("convnet_small", 5, **options)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
        return as_logits_fn(model, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes))

    images = MODEL.x[..., :1]
    one, other, again = (record(logits_fn(**changes), images)
                         for changes in ({}, dict(mean=(0.5,), std=(0.25,)), {}))
    assert one["network"] != other["network"]
    assert one[PROGRAM] != other[PROGRAM]
    assert one == again


def test_a_network_behind_a_callback_is_told_by_its_answers():
    def behind(weights):
        return lambda x: jax.pure_callback(lambda x: np.asarray(plain(weights, x)),
                                           jax.ShapeDtypeStruct((x.shape[0], 5), jnp.float32), x)

    assert differing(behind(MODEL.weights), behind(MODEL.weights)) == set()
    assert differing(behind(MODEL.weights), behind(MODEL.weights * 1.01)) == {"network_answers"}


def test_answers_agree_up_to_rounding():
    assert agree("network_answers", [1.0, 1e-9], [1.0005, 0.0])
    assert not agree("network_answers", [1.0, 0.0], [1.002, 0.0])
    assert agree("network_answers", [1.0, np.nan, np.inf], [1.0005, np.nan, np.inf])
    assert not agree("network_answers", [1.0, np.nan], [1.002, np.nan])
    assert not agree("network_answers", [1.0, np.nan], [1.0, 1.0])
    assert not agree("network_answers", [1.0], [1.0, 1.0])
    assert not agree("network_answers", [1.0], ["x"])
    assert not agree("epsilon", [1.0], [1.0000001])


def test_fingerprint_sees_values_names_shapes_and_types():
    tree = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2)}
    others = [{"a": tree["a"] + 1, "b": tree["b"]}, {"c": tree["a"], "b": tree["b"]},
              {"a": tree["a"].reshape(2, 2), "b": tree["b"]}, {"a": tree["a"].view(np.int32), "b": tree["b"]}]
    assert fingerprint(tree) == fingerprint(dict(tree))
    assert len({fingerprint(other) for other in [tree, *others]}) == 5
