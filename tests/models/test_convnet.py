import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from tests.models import quick_jit


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_shapes(size, channels):
    model = models.create("convnet_small", 10)
    images = jax.ShapeDtypeStruct((5, size, size, channels), jnp.float32)
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert outputs.features.shape == (5, 128)
    assert outputs.logits.shape == (5, 10)
    assert variables["params"]["hidden"]["kernel"].shape == ((size // 4) ** 2 * 32, 128)


def test_learns_one_batch():
    model = models.create("convnet_small", 3, width=4)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(12, 8, 8, 1)).astype(np.float32), np.arange(12) % 3
    variables = quick_jit(model.init)(jax.random.key(0), x)

    def loss(params, stats):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        assert (outputs.features.shape, outputs.logits.shape) == ((12, 32), (12, 3))
        log_p = jax.nn.log_softmax(outputs.logits)
        return -jnp.take_along_axis(log_p, y[:, None], 1).mean(), updates["batch_stats"]

    def step(carry, _):
        params, stats = carry
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params, stats)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), stats), value

    train = quick_jit(lambda *carry: jax.lax.scan(step, carry, length=60))
    _, losses = train(variables["params"], variables["batch_stats"])
    assert losses[0] > 0.9
    assert losses[-1] < 0.1
