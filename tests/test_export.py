import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from morel_jax import builders, training
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.interop.torch import load_checkpoint
from tests.commands import call
from tests.small import small_config, small_dataset

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EMBEDDING_SPACE = ("projection", "norm", "qkv", "out")


def command(module, *arguments):
    return subprocess.run([sys.executable, "-m", f"morel_jax.{module}", *arguments], cwd=ROOT, text=True,
                          capture_output=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of MOREL, which trains an embedding space beside the classifier; judged on 20 images."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "dataset", lambda config: small_dataset(train=1000, test=400))
        training.fit(small_config("morel_mart", epochs=1, batch_size=50, validation__examples=200), folder,
                     progress=False)
    outcome = command("evaluate", f"--workdir={folder}", "--which=best", "--attacks=fgsm", "--examples=20",
                      "--report_card=0", "--noprogress")
    assert outcome.returncode == 0, outcome.stderr
    return folder


@pytest.fixture(scope="module")
def exported(workdir):
    outcome = command("export", f"--workdir={workdir}", "--format=stablehlo", "--format=safetensors", "--gradients")
    assert outcome.returncode == 0, outcome.stderr
    folder = workdir / "exported" / "best"
    assert str(folder / "model.stablehlo") in outcome.stdout
    assert sorted(os.listdir(folder)) == ["model.safetensors", "model.stablehlo", "model_card.json", "model_card.md"]
    return folder


@pytest.mark.slow
def test_the_files_are_the_network(workdir, exported):
    model, variables, _, dataset = load_variables(workdir, "best")
    x = np.float32(dataset.test.images[:5]) / 255
    want = as_logits_fn(model, variables)(x)
    logits_fn = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes())).call
    np.testing.assert_allclose(logits_fn(x), want, atol=1e-5)
    assert np.any(jax.grad(lambda x: logits_fn(x)[:, 0].sum())(x))
    imported = load_checkpoint(exported / "model.safetensors")
    assert imported.name == "convnet_small"
    jax.tree.map(np.testing.assert_array_equal, imported.variables, variables)


@pytest.mark.slow
def test_no_file_names_a_folder_of_this_machine(exported, workdir):
    for path in exported.iterdir():
        for folder in (ROOT, str(workdir), sys.prefix, os.path.expanduser("~")):
            assert folder.encode() not in path.read_bytes(), (path.name, folder)


@pytest.mark.slow
def test_no_parameter_of_the_embedding_space(workdir, exported):
    from safetensors import safe_open

    with safe_open(exported / "model.safetensors", "numpy") as file:
        assert {key.partition(".")[0] for key in file.keys()} == {"conv1", "bn1", "conv2", "bn2", "hidden", "linear"}
    _, variables, _, _ = load_variables(workdir, "best")
    assert not set(variables["params"]) & set(EMBEDDING_SPACE)
    # The other file has no names; its constants have no room for more than the classifier, even twice.
    classifier = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert (exported / "model.stablehlo").stat().st_size < 2.1 * classifier


@pytest.mark.slow
def test_model_card(workdir, exported):
    card = json.loads((exported / "model_card.json").read_text())
    history = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "evaluation" / "best" / "summary.json").read_text())
    assert card["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(load_variables(workdir)[1]["params"]))
    assert card["validation"]["robust_accuracy"] == history[0]["robust_accuracy"]
    assert card["validation"]["images"].startswith("200 test images")
    assert card["evaluation"]["attacks"]["fgsm"]["accuracy"] == summary["attacks"]["fgsm"]["accuracy"]
    assert card["config"]["method"] == "morel_mart"
    assert card["versions"]["jax"] == jax.__version__
    text = (exported / "model_card.md").read_text()
    assert "on 20 test images, linf, epsilon 0.1" in text
    assert "differentiable once" in text


@pytest.mark.slow
def test_a_summary_of_another_network_is_left_out(workdir, tmp_path):
    path = workdir / "evaluation" / "best" / "summary.json"
    before = path.read_text()
    summary = json.loads(before)
    summary["settings"]["network"] = "another"
    path.write_text(json.dumps(summary))
    outcome = command("export", f"--workdir={workdir}", f"--out={tmp_path}", "--platforms=cpu")
    path.write_text(before)
    assert outcome.returncode == 0
    assert outcome.stderr == f"warning: {path} judges another network than this one; the model card leaves it out.\n"
    assert "evaluation" not in json.loads((tmp_path / "model_card.json").read_text())
    assert jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes())).platforms == ("cpu",)


@pytest.mark.slow
def test_no_card_of_an_earlier_export_stands_beside_new_weights(workdir, tmp_path):
    """Killed between two files, an export leaves no card, rather than the one of other weights."""
    (tmp_path / "model_card.json").write_text("{}")
    (tmp_path / "model.pt").mkdir()  # So that its file cannot be put in place.
    outcome = command("export", f"--workdir={workdir}", f"--out={tmp_path}", "--format=safetensors", "--format=torch")
    assert outcome.returncode == 2
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "model.pt.tmp", "model.safetensors"]


@pytest.mark.slow
def test_the_card_is_that_of_the_checkpoint(workdir, tmp_path):
    """Whatever the metrics say, as after a kill while they were written."""
    metrics = workdir / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text(before + json.dumps(json.loads(before) | {"epoch": 2, "step": 99, "robust_accuracy": 1}) + "\n")
    outcome = command("export", f"--workdir={workdir}", "--which=last", "--format=safetensors", f"--out={tmp_path}")
    metrics.write_text(before)
    assert outcome.returncode == 0, outcome.stderr
    card = json.loads((tmp_path / "model_card.json").read_text())
    assert (card["step"], card["epoch"]) == (json.loads(before)["step"], 1)
    assert card["validation"]["robust_accuracy"] == json.loads(before)["robust_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (["--platforms=gpu"], "error: platforms must be one or more of cpu, cuda, rocm, tpu; got gpu."),
    (["--format=safetensors", "--sub_block1"], "error: sub_block1 must be False for networks other than wide_resnet<"),
    (["--format=robustbench"], "error: model.name must be resnet18/34/50/101/152, "),
    (["--entry=id=x"], "error: entry is for --format=robustbench alone; got stablehlo."),
])
def test_what_cannot_be_exported_is_one_line(workdir, tmp_path, arguments, message):
    outcome = command("export", f"--workdir={workdir}", f"--out={tmp_path}", *arguments)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(message)
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["--out=x"], "--workdir"),
    (["--workdir=nowhere"], "error: no config.json in nowhere: not a run's folder."),
    (["--workdir=gs://bucket/run"], "error: workdir must be a path on a mounted file system, not a URL"),
    (["--workdir=x", "--format=onnx"], "format"),
    (["--workdir=x", "--which=first"], "which"),
])
def test_wrong_flags_are_one_line(monkeypatch, arguments, message):
    status, _, error = call(monkeypatch, "export", *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
