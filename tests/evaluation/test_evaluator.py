import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.evaluation.evaluator import Evaluator, as_argument, block_width, mean_logits
from morel_jax.evaluation.trained import as_logits_fn
from tests.attacks.linear import Linear

MODEL = Linear(count=21)
EVALUATOR = Evaluator(as_argument(MODEL.logits), MODEL.x, MODEL.y, width=8)


@pytest.mark.parametrize("compiled", [True, False])
def test_logits_in_blocks(compiled):
    got = EVALUATOR.logits(np.arange(21), compiled)
    np.testing.assert_allclose(got, MODEL.logits(MODEL.x), rtol=1e-5)


def test_every_block_has_one_shape_and_only_the_rows_asked_for_come_back():
    blocks, done = [], []
    got = EVALUATOR.map(lambda rows: blocks.append(rows.tolist()) or {"rows": rows, "twice": 2 * rows},
                        np.array([20, 3, *range(10)]), done.append)
    assert blocks == [[20, 3, 0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 6, 7, 8, 9]]
    assert done == [8, 12]
    np.testing.assert_array_equal(got["rows"], [20, 3, *range(10)])
    np.testing.assert_array_equal(got["twice"], 2 * got["rows"])


def test_images_of_any_type_are_floats_in_the_box():
    levels = np.round(MODEL.x * 255).astype(np.uint8)
    for images in (levels, (levels / 255).astype(np.float16), levels / 255):
        x = Evaluator(EVALUATOR.logits_fn, images, MODEL.y, 8).x(np.array([4, 2]))
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, levels[[4, 2]] / 255, atol=1e-3)


@pytest.mark.parametrize(("name", "width"), [("convnet_small", 16), ("resnet18", 8)])
def test_blocks_of_large_networks_have_fewer_rows(name, width):
    model = models.create(name, 10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables)
    assert block_width(as_logits_fn(model, blank), (32, 32, 3)) == width


def test_products_are_full_whatever_the_caller_has_set():
    traced = jax.make_jaxpr(as_argument(lambda x: x @ jnp.ones((2, 3))))(jnp.ones((1, 2)))
    assert "Precision.HIGHEST" in str(traced)


def test_networks_with_weights_as_leaves_are_arguments():
    model = Linear()
    scaled = jax.tree_util.Partial(lambda scale, x: scale * model.logits(x), jnp.float32(2))
    wrapped = as_argument(scaled)
    assert as_argument(wrapped) is wrapped
    np.testing.assert_array_equal(jax.tree.leaves(wrapped), [2])
    assert len(jax.tree.leaves(as_argument(model.logits))) == 0


def test_several_networks_as_one():
    other = Linear(count=21, seed=1)
    both = mean_logits([MODEL.logits, other.logits])
    np.testing.assert_allclose(both(MODEL.x), (MODEL.logits(MODEL.x) + other.logits(MODEL.x)) / 2, rtol=1e-5)
    alone = as_argument(MODEL.logits)
    assert mean_logits([alone]) is alone
    with pytest.raises(ValueError, match="surrogates must have the same classes; got networks with 5, 3"):
        mean_logits([MODEL.logits, lambda x: MODEL.logits(x)[:, :3]])(MODEL.x)
