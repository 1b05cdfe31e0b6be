"""Random networks of the library, small enough to differentiate in any way, and images for them."""
import jax
import numpy as np

from morel_jax import losses, models
from tests.models import quick_jit

TINY = {
    "convnet": dict(name="convnet_small", width=2),
    "resnet": dict(name="resnet8", widths=(4, 4, 8)),
    "wide_resnet": dict(name="wide_resnet10_1"),
}
CLASSES = 3


def images_and_labels(n=3, size=8, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(size=(n, size, size, 3)).astype(dtype), np.arange(n, dtype=np.int32) % CLASSES


def network(kind, dtype="float32", seed=0):
    """(apply, params): ``apply(params, x)`` -> Outputs, with running statistics that are not the initial ones."""
    model = models.create(**TINY[kind], num_classes=CLASSES, dtype=dtype)
    variables = quick_jit(model.init)(jax.random.key(seed), images_and_labels(1)[0])
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), variables)
    stats = jax.tree.map(lambda leaf: leaf + np.asarray(0.1, dtype), variables["batch_stats"])

    def apply(params, x):
        return model.apply({"params": params, "batch_stats": stats}, x)

    return apply, variables["params"]


def logits_fn(kind, dtype="float32", seed=0):
    """The network as a function of images alone."""
    apply, params = network(kind, dtype, seed)
    return lambda x: apply(params, x).logits


def cross_entropies(kind, dtype="float32"):
    """(loss_fn, params): ``loss_fn(params, x, y)`` -> float[n]."""
    apply, params = network(kind, dtype)
    return lambda params, x, y: losses.cross_entropy(apply(params, x).logits, y), params
