import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.interop import stablehlo
from tests.models import quick_jit

# What a user of the file runs: JAX and numpy only.
ELSEWHERE = """
import sys
import numpy as np
import jax, jax.export
folder = sys.argv[1]
with open(folder + "/model.stablehlo", "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
images = np.load(folder + "/images.npy")
np.savez(folder + "/found.npz", logits=exported.call(images), one=exported.call(images[:1]),
         gradient=jax.grad(lambda x: exported.call(x)[:, 0].sum())(images))
assert exported.platforms == ("cpu", "cuda"), exported.platforms
assert not [name for name in sys.modules if name.partition(".")[0] in ("morel_jax", "flax", "torch")]
"""


@pytest.mark.parametrize(("name", "image_shape"), [("convnet_small", (8, 12, 1)), ("wide_resnet10_1", (16, 16, 3))])
def test_elsewhere_with_any_batch(tmp_path, name, image_shape):
    model = models.create(name, 5)
    images = np.random.default_rng(0).uniform(size=(3, *image_shape)).astype(np.float32)
    variables = quick_jit(model.init)(jax.random.key(0), images)

    def logits_fn(x):
        return model.apply(variables, x).logits

    (tmp_path / "model.stablehlo").write_bytes(stablehlo.serialise(logits_fn, image_shape, gradients=True))
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    want = quick_jit(logits_fn)(images)
    np.testing.assert_allclose(found["logits"], want, atol=1e-5)
    np.testing.assert_allclose(found["one"], want[:1], atol=1e-5)
    gradient = quick_jit(jax.grad(lambda x: logits_fn(x)[:, 0].sum()))(images)
    np.testing.assert_allclose(found["gradient"], gradient, atol=1e-5)


def test_gradients_only_on_demand():
    data = stablehlo.serialise(lambda x: x.sum((1, 2)), (4, 4, 2), ["cpu"])
    exported = jax.export.deserialize(data)
    assert exported.platforms == ("cpu",)
    with pytest.raises(ValueError, match="No VJP is available"):
        jax.grad(lambda x: exported.call(x).sum())(jnp.zeros((1, 4, 4, 2)))


@pytest.mark.parametrize(("arguments", "message"), [
    (((4, 4),), r"image_shape must be \(height, width, channels\); got \(4, 4\)"),
    (((4, 4, 1), ["gpu"]), r"platforms must be one or more of cpu, cuda, rocm, tpu; got gpu"),
    (((4, 4, 1), []), "got none"),
])
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        stablehlo.serialise(lambda x: x, *arguments)
