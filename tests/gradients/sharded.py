"""A function of each kind on one device and on eight that share the images; prints how far apart the results are."""
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)

from morel_jax import gradients  # noqa: E402
from morel_jax.sharding import make_mesh  # noqa: E402
from tests.gradients.networks import images_and_labels, network  # noqa: E402


def measure(params, x, y):
    def logits_fn(x):
        return apply(params, x).logits

    def loss_fn(params, x, y):
        return -jax.nn.log_softmax(apply(params, x).logits)[jnp.arange(len(y)), y]

    def objectives(params):
        return jnp.stack([jnp.mean(loss_fn(params, x, y)), jnp.mean(jnp.square(apply(params, x).features))])

    key = jax.random.key(0)
    return {
        "input_gradients": gradients.input_gradients(logits_fn, x, y),
        "parameter_gradient_norms": gradients.parameter_gradient_norms(loss_fn, params, x, y, batch_size=8),
        "conflict": gradients.conflict(objectives, params).cosine,
        "hessian": gradients.hessian_eigenpairs(
            lambda p: jnp.mean(loss_fn(p, x, y)), params, key, num_steps=4).values,
        "input_hessian": gradients.input_hessian_eigenpairs(logits_fn, key, x, y, num_steps=4).values,
        "linearity": gradients.linearity_error(logits_fn, key, x, y, 0.1, 0.05, 3).error,
        "surface": gradients.surface(
            lambda x: loss_fn(params, x, y), x, gradients.input_directions(logits_fn, key, x, y),
            [jnp.linspace(-0.1, 0.1, 3)] * 2),
        "margins": gradients.linearised_margins(logits_fn, x, y).margin,
    }


if __name__ == "__main__":
    apply, params = network("convnet")
    x, y = images_and_labels(16)
    mesh = make_mesh()
    assert mesh.size == 8
    rows = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
    whole = jax.NamedSharding(mesh, jax.P())
    one = jax.jit(measure)(params, x, y)
    eight = jax.jit(measure)(jax.device_put(params, whole), jax.device_put(x, rows), jax.device_put(y, rows))
    assert len(eight["input_gradients"].sharding.device_set) == 8
    for name, values in one.items():
        apart = np.max(np.abs(np.asarray(values) - np.asarray(eight[name]))) / np.max(np.abs(values))
        print(name, apart)
