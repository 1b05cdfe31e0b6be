import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.interop import stablehlo
from tests.models import quick_jit

ROOT = Path(__file__).parents[2]
# What a user of the file runs: JAX and numpy only.
ELSEWHERE = """
import sys
import numpy as np
import jax, jax.export
for folder in sys.argv[1:]:
    with open(folder + "/model.stablehlo", "rb") as file:
        exported = jax.export.deserialize(bytearray(file.read()))
    images = np.load(folder + "/images.npy")
    np.savez(folder + "/found.npz", logits=exported.call(images), one=exported.call(images[:1]),
             gradient=jax.grad(lambda x: exported.call(x)[:, 0].sum())(images))
    assert exported.platforms == ("cpu", "cuda"), exported.platforms
assert not [name for name in sys.modules if name.partition(".")[0] in ("morel_jax", "flax", "torch")]
"""


NETWORKS = {"convnet_small": (8, 12, 1), "wide_resnet10_1": (16, 16, 3)}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """{name: (logits_fn, images, what another process found with the file alone)}."""
    root, networks = tmp_path_factory.mktemp("exported"), {}
    for name, image_shape in NETWORKS.items():
        (root / name).mkdir()
        networks[name] = export(name, image_shape, root / name)
    subprocess.run([sys.executable, "-c", ELSEWHERE, *(root / name for name in NETWORKS)], check=True, cwd=root)
    return {name: (*network, np.load(root / name / "found.npz")) for name, network in networks.items()}


def export(name, image_shape, folder):
    model = models.create(name, 5)
    images = np.random.default_rng(0).uniform(size=(3, *image_shape)).astype(np.float32)
    variables = quick_jit(model.init)(jax.random.key(0), images)

    def logits_fn(x):
        return model.apply(variables, x).logits

    (folder / "model.stablehlo").write_bytes(stablehlo.serialise(logits_fn, image_shape, gradients=True))
    np.save(folder / "images.npy", images)
    return logits_fn, images


@pytest.mark.parametrize("name", NETWORKS)
def test_elsewhere_with_any_batch(elsewhere, name):
    logits_fn, images, found = elsewhere[name]
    want = quick_jit(logits_fn)(images)
    np.testing.assert_allclose(found["logits"], want, atol=1e-5)
    np.testing.assert_allclose(found["one"], want[:1], atol=1e-5)
    gradient = quick_jit(jax.grad(lambda x: logits_fn(x)[:, 0].sum()))(images)
    np.testing.assert_allclose(found["gradient"], gradient, atol=1e-5)


# A library in another folder, called from another: the bytes' digest, and how often a path is in them.
ANYWHERE = """
import hashlib, sys
import jax
from morel_jax import models
from morel_jax.interop import stablehlo
model = models.create("convnet_small", 3)
variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 1)))
data = bytes(stablehlo.serialise(lambda x: model.apply(variables, x).logits, (8, 8, 1), gradients=True))
print(hashlib.sha256(data).hexdigest(), data.count(b".py"), jax.config.jax_traceback_in_locations_limit > 0)
"""


@pytest.mark.slow
def test_the_same_bytes_from_any_folder(tmp_path):
    said = []
    for number, root in enumerate((ROOT, tmp_path / "copy of it")):
        if not root.exists():
            shutil.copytree(ROOT / "morel_jax", root / "morel_jax", ignore=shutil.ignore_patterns("__pycache__"))
        program = tmp_path / f"{number}.py"
        program.write_text("\n" * number + ANYWHERE)
        said.append(subprocess.run([sys.executable, program], cwd=tmp_path, check=True, capture_output=True, text=True,
                                   env=os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": str(number)}).stdout)
    assert said[0] == said[1]
    assert said[0].split()[1:] == ["0", "True"]


def test_no_path_of_the_sources_is_inside():
    model = models.create("convnet_small", 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    data = bytes(stablehlo.serialise(lambda x: model.apply(variables, x).logits, (8, 8, 1), ["cpu"], gradients=True))
    assert str(ROOT).encode() not in data
    assert b".py" not in data
    assert jax.config.jax_traceback_in_locations_limit != 0  # The caller's own programs keep theirs.


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
