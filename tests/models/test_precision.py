import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.models.precision import PRECISIONS, float32_logits
from tests.models import quick_jit
from tests.small import images_and_labels

X = jnp.asarray(images_and_labels(count=2, size=8)[0] / np.float32(255))


@pytest.mark.parametrize("name", PRECISIONS)
def test_logits_are_float32_with_full_products_whatever_the_model_trains_in(name):
    model = models.create("convnet_small", 3, dtype=PRECISIONS[name].dtype)
    variables = quick_jit(model.init)(jax.random.key(0), X)
    plain = models.create("convnet_small", 3).apply(variables, X).logits
    np.testing.assert_array_equal(float32_logits(model, variables, X), plain)
    traced = str(jax.make_jaxpr(lambda x: float32_logits(model, variables, x))(X))
    assert "bf16" not in traced
    assert traced.count("HIGHEST") >= 4  # Two convolutions and two products.


def test_shorter_products_are_asked_for():
    model = nn.Dense(3)

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return models.Outputs(x, model.apply({"params": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}, x))

    traced = jax.make_jaxpr(lambda x: float32_logits(Own(), {}, x, PRECISIONS["tf32"].products))(jnp.ones((2, 4)))
    assert "HIGH" in str(traced)
    assert "HIGHEST" not in str(traced)
