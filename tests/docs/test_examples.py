import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from morel_jax import training
from tests.small import as_users_compile, small_config, small_dataset

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.slow
def test_manual_collectives():
    outcome = subprocess.run([sys.executable, EXAMPLES / "manual_collectives.py"], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    found = dict(re.findall(r"(shard_map|pmap), 4 devices\n.*\n  parameters differ by (\S+) ", outcome.stdout))
    assert found.keys() == {"shard_map", "pmap"}, outcome.stdout
    for apart in found.values():
        assert float(apart) < 1e-4


@pytest.mark.slow
def test_own_parts(tmp_path):
    outcome = subprocess.run([sys.executable, EXAMPLES / "own_parts.py", tmp_path], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    correct = ast.literal_eval(outcome.stdout.splitlines()[-1])
    assert list(correct) == ["clean", "pgd20", "one-step", "apgd-ce"]
    # Of 200 images in four classes.
    assert correct["clean"] > 180
    assert 50 < correct["apgd-ce"] <= correct["pgd20"] <= correct["one-step"] <= correct["clean"]


@pytest.mark.slow
def test_any_network(tmp_path):
    outcome = subprocess.run([sys.executable, EXAMPLES / "any_network.py", tmp_path], capture_output=True, text=True,
                             cwd=EXAMPLES.parents[1], env=as_users_compile())
    assert outcome.returncode == 0, outcome.stderr
    found = {name: (float(clean), float(robust), agrees) for name, clean, robust, agrees in re.findall(
        r"(linen|nnx): clean (\S+)%, APGD-CE (\S+)%, exported network agrees: (\w+)", outcome.stdout)}
    assert found.keys() == {"linen", "nnx"}, outcome.stdout
    for clean, robust, agrees in found.values():
        assert 40 < robust < clean  # At chance it would be 10 %.
        assert agrees == "True"


@pytest.mark.slow
def test_weighted_frozen(tmp_path):
    outcome = subprocess.run([sys.executable, EXAMPLES / "weighted_frozen.py", tmp_path], text=True,
                             capture_output=True)
    assert outcome.returncode == 0, outcome.stderr
    correct, rare = map(float, re.findall(r"(\d+\.\d)%", outcome.stdout.splitlines()[-1]))
    assert correct > 25  # At chance it would be 10 %.
    assert 30 < rare < 90  # Half of the test images are of these classes, an eleventh of the training images.


@pytest.mark.slow
def test_objective_gradients(tmp_path):
    shares = []
    images = small_dataset(train=8 * 32)  # As many batches as the example reads.
    np.savez(tmp_path / "images.npz", x_train=images.train.images, y_train=images.train.labels,
             x_test=images.test.images, y_test=images.test.labels)
    for weight in (0.01, 0.02):  # No step: the network is the same.
        config = small_config(morel__contrastive_weight=weight, epochs=1, batch_size=32,
                              data__name=f"npz:{tmp_path / 'images.npz'}", optimizer__learning_rate=0.0,
                              optimizer__weight_decay=0.0)
        training.fit(config, tmp_path / str(weight), progress=False)
        outcome = subprocess.run([sys.executable, EXAMPLES / "objective_gradients.py", tmp_path / str(weight)],
                                 capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
        found = json.loads(outcome.stdout)
        assert found["classification"] == pytest.approx(
            {"norm": found["classification"]["norm"], "share": 1, "cosine": 1}, abs=1e-5)
        assert found["cosine"]["share"] > 0
        shares.append(found["contrastive"]["share"])
    assert shares[1] == pytest.approx(2 * shares[0], rel=1e-4)
