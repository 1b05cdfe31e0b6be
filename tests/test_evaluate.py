import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from morel_jax import builders, data, training
from tests.commands import call
from tests.data import corrupted
from tests.small import small_config, small_dataset

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def evaluate(*arguments):
    return subprocess.run([sys.executable, "-m", "morel_jax.evaluate", *arguments], cwd=ROOT, text=True,
                          capture_output=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "dataset", lambda config: small_dataset(train=1000, test=200))
        training.fit(small_config("standard", epochs=1, batch_size=50), folder, progress=False)
    return folder


@pytest.mark.slow
def test_the_command_end_to_end(workdir):
    outcome = evaluate(f"--workdir={workdir}", "--which=best,last", "--attacks=paper,fmn", "--examples=40",
                       "--report_card=40", "--save_images")
    assert outcome.returncode == 0, outcome.stderr
    for which in ("best", "last"):
        folder = workdir / "evaluation" / which
        summary = json.loads((folder / "summary.json").read_text())
        assert list(summary["attacks"]) == ["fgsm", "pgd20", "pgd100", "cw", "fmn"]
        assert summary["examples"] == 40
        assert 0 <= summary["worst_case"]["accuracy"] <= summary["average"]["accuracy"] <= summary["clean"]["accuracy"]
        text = (folder / "summary.md").read_text()
        assert text.splitlines()[0] == f"## {workdir}, {which}"
        assert "Avg-Robust (FGSM, PGD-20, PGD-100, CW)" in text
        assert "one_step_beats_iterative" in text
        assert text.split("\n")[0] in outcome.stdout
        assert len(json.loads((folder / "report_card.json").read_text())["lines"]) == 10
        for figure in ("curves.png", "adversarial.png", "distances.png"):
            assert (folder / figure).stat().st_size > 10_000
        assert (folder / "adversarial" / "pgd20_uint8.npy").exists()
    assert "pgd20: " in outcome.stderr


@pytest.mark.slow
def test_transfer_and_another_radius_from_the_command_line(workdir, tmp_path):
    outcome = evaluate(f"--workdir={workdir}", "--which=last", "--attacks=transfer-fgsm",
                       f"--surrogate={workdir},{workdir}", "--examples=20",
                       "--report_card=0", f"--output={tmp_path}", "--epsilon=0.05", "--noprogress")
    assert outcome.returncode == 0, outcome.stderr
    summary = json.loads((tmp_path / "last" / "summary.json").read_text())
    assert summary["settings"]["epsilon"] == 0.05
    assert summary["settings"]["step_size"] == pytest.approx(0.025)
    assert summary["settings"]["surrogate_answers"] == pytest.approx(summary["settings"]["network_answers"])
    assert outcome.stderr == ""


def shifted(logits_fn, images, keys):
    """A defence: images moved sideways at random."""
    return logits_fn(jax.vmap(lambda image, key: jnp.roll(image, jax.random.randint(key, (), -1, 2), 1))(images, keys))


def negative_logit(logits, labels):
    """A loss."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


@pytest.mark.slow
def test_random_networks_and_own_losses_from_the_command_line(monkeypatch, workdir, tmp_path):
    common = [f"--workdir={workdir}", "--which=last", "--examples=8", "--draws=5", f"--output={tmp_path}",
              f"--loss={__file__}:negative_logit", "--noprogress"]
    for flag, name in (("--noise=0.2", "noise=0.2"), (f"--defence={__file__}:shifted", "defence=shifted")):
        status, out, error = call(monkeypatch, "evaluate", *common, flag, "--attacks=fgsm-eot3,pgd2-loss-eot3")
        assert (status, error) == (0, "")
        assert f"{workdir}, last, {name}" in out
        assert "each verdict the majority of 5 draws" in out
        summary = json.loads((tmp_path / "last" / name / "summary.json").read_text())
        assert list(summary["attacks"]) == ["fgsm-eot3", "pgd2-loss-eot3"]
        assert summary["settings"]["loss"] == "<function negative_logit>"
        assert not (tmp_path / "last" / name / "report_card.json").exists()
    status, _, error = call(monkeypatch, "evaluate", *common, "--noise=0.2", "--attacks=fgsm")
    assert (status, error.count("\n")) == (2, 1)
    assert "error: attack fgsm, on 10 classes: it asks the network once for each gradient" in error


@pytest.mark.slow
def test_corruptions_from_the_command_line(workdir, tmp_path):
    test = data.load("fashion_mnist_small").test
    corrupted.write(tmp_path, test.images[:50], test.labels[:50])
    common = [f"--workdir={workdir}", "--which=last", f"--corruptions_dir={tmp_path}", f"--output={tmp_path / 'out'}"]
    outcome = evaluate(*common, "--attacks=corruptions", "--examples=20")
    assert outcome.returncode == 0, outcome.stderr
    folder = tmp_path / "out" / "last"
    assert {path.name for path in folder.iterdir()} == {"corruptions.json", "corruptions.md", "corruptions.png"}
    first = (folder / "corruptions.json").read_bytes()
    assert json.loads(first)["examples"] == 20
    assert (folder / "corruptions.md").read_text() in outcome.stdout
    assert "gaussian_noise: " in outcome.stderr
    outcome = evaluate(*common, "--attacks=corruptions,fgsm", "--examples=20", "--report_card=0", "--batch_size=3",
                       f"--corruptions_baseline={folder / 'corruptions.json'}")
    assert outcome.returncode == 0, outcome.stderr
    assert "gaussian_noise: " not in outcome.stderr
    assert json.loads((folder / "summary.json").read_text())["attacks"].keys() == {"fgsm"}
    second = json.loads((folder / "corruptions.json").read_text())
    assert second.pop("relative_mce") == pytest.approx(1)
    assert second == json.loads(first)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--workdir=x", "--attacks=corruptions"], "error: --corruptions_dir must come with --attacks=corruptions"),
    (["--workdir=x", "--corruptions_dir=y"], "error: --corruptions_dir must come with --attacks=corruptions"),
    (["--workdir=x", "--make_corruptions"], "must come with --attacks=corruptions"),
    (["--workdir=x", "--corruptions_baseline=y"], "must come with --attacks=corruptions"),
    (["--config=configs/smoke.py", "--dry_run", "--attacks=corruptions"], "--dry_run must be given attacks alone"),
    (["--attacks=fgsm"], "--workdir"),
    (["--workdir=nowhere"], "error: no config.json in nowhere: not a run's folder."),
    (["--workdir=x", "--norm=l1"], "norm"),
    (["--workdir=x", "--examples=-1"], "examples"),
    (["--workdir=x", "--which="], "flag --which=[]: must be best, last or both"),
    (["--workdir=x", "--which=best,foo"], "flag --which=['best', 'foo']: must be best, last or both"),
    (["--workdir=x", "--attacks="], "flag --attacks=[]: must name at least one attack"),
    (["--workdir=x", "--surrogate_which=first"], "surrogate_which"),
    (["--workdir=x", "--surrogate="], "surrogate"),
    (["--workdir=x", "--seed=4294967296"], "seed"),
    (["--workdir=x", "--loss=mine.py:margin"], "--loss must be FILE.py:FUNCTION, of a file that is there; got 'm"),
    (["--workdir=x", "--defence=setup.cfg"], "--defence must be FILE.py:FUNCTION, of a file that is there"),
    (["--workdir=x", f"--loss={__file__}:nothing"], "test_evaluate.py has no function 'nothing'."),
    (["--workdir=x", "--noise=0"], "flag --noise=0.0: must be above 0"),
    (["--workdir=x", "--draws=0"], "draws"),
    (["--workdir=x", "--noise=1", f"--defence={__file__}:evaluate"], "--noise and --defence must not be given"),
    (["--config=configs/smoke.py", "--dry_run", "--noise=1"], "--noise and --defence must come with attacks alone"),
    (["--config=configs/smoke.py", "--dry_run", "--attacks=pgd2-eot2"], "attack pgd2-eot2, on 10 classes: it averages"),
    (["--workdir="], "workdir must name a path; got an empty string"),
    (["--workdir=x", "--output=gs://a"], "output must be a path on a mounted file system, not a URL; got 'gs://a'"),
])
def test_wrong_flags_are_one_line(monkeypatch, arguments, message):
    status, _, error = call(monkeypatch, "evaluate", *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_what_is_wrong_with_the_second_checkpoint_is_found_before_the_first_is_judged(workdir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    shutil.rmtree(run / "checkpoints" / "last")
    outcome = evaluate(f"--workdir={run}", "--which=best,last", "--attacks=fgsm", f"--output={tmp_path / 'out'}")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(f"error: no checkpoint in {run / 'checkpoints' / 'last'}")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint(monkeypatch, tmp_path):
    training.workdir.open_workdir(small_config(), tmp_path)
    status, _, error = call(monkeypatch, "evaluate", f"--workdir={tmp_path}")
    assert status == 2
    assert error.startswith(f"error: no checkpoint in {tmp_path}")
    assert len(error.splitlines()) == 1
