import os
import re
import shutil
import socket
import subprocess

import numpy as np
import pytest

from morel_jax import training
from morel_jax.reporting import page, pictures, watch, write_report
from morel_jax.reporting.content import build
from morel_jax.reporting.runs import find_runs
from morel_jax.training.workdir import open_sweep, write_metrics
from tests.reporting import made
from tests.small import tiny_config, tiny_dataset


def html(*folders):
    return page.to_html(build(find_runs(folders)))


def words(text):
    """What a reader reads, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", text.replace("<wbr>", ""), flags=re.S))


@pytest.fixture
def one(tmp_path):
    workdir = made.run(tmp_path / "a")
    made.evaluation(workdir)
    return workdir


def test_one_run_has_everything_that_its_folder_has(one):
    text = html(one)
    said = words(text)
    for expected in ("finished, 2 epochs", "62.50", "linf, epsilon 0.1, 40 images", "37.50 32.5 to 42.5",
                     "Report card of a, best: 1 pass, 1 fail, 0 not judged", "it falls", "gradient conflict",
                     "learning rate", "cosine loss", "robust accuracy in validation, %", "optimizer.learning_rate",
                     "orbax-checkpoint", "commit"):
        assert expected in said, expected
    assert text.count("<svg") == 2 + 9
    assert "Where the runs differ" not in said
    assert "<details open>" in text  # A report card with a failure.


def test_nothing_is_fetched_or_run(one):
    text = html(one)
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_names_are_escaped(tmp_path):
    folder = made.run(tmp_path / "<img onerror=x>&a")
    made.evaluation(folder)
    text = html(folder)
    assert "<img onerror" not in text
    assert "&lt;img onerror=x&gt;&amp;a" in text


def test_a_folder_whose_name_is_no_text(tmp_path):
    assert ">?a<" in html(made.run(tmp_path / os.fsdecode(b"\xffa")))


def test_runs_are_compared(tmp_path):
    open_sweep({f"k={k}": {} for k in range(9)}, tmp_path)
    for k in range(9):
        made.evaluation(made.run(tmp_path / f"k={k}", loss__beta=1.0 + k, seed=k % 2), pgd=0.41 + k / 100)
    text = html(tmp_path)
    said = words(text)
    assert "9 runs" in said
    assert re.search(r"Where the runs differ .*loss\.beta 1\.0 2\.0 .* 9\.0 ", said)
    assert "optimizer.momentum" not in said.partition("The whole config")[0]
    assert all(f"{41 + k}.00" in said for k in range(9))
    assert {f"c{k} d0" for k in range(9)} <= set(re.findall(r"c\d d\d", text))


def test_runs_alike_say_so(tmp_path):
    made.run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert "The runs' configs are the same." in words(html(tmp_path)).replace("&#39;", "'")


def test_a_run_that_has_nothing_yet_and_one_that_is_damaged(tmp_path):
    made.run(tmp_path / "begun", 0)
    folder = made.run(tmp_path / "damaged")
    (folder / "config.json").write_text("{")
    said = words(html(tmp_path))
    assert "no epoch finished" in said
    assert "epoch 2 of ?" not in said
    assert f"{folder / 'config.json'} is not valid JSON" in said
    assert "62.50" in said


def test_a_watched_page_follows_the_runs_to_their_end(tmp_path):
    folder, output, seen = made.run(tmp_path / "a", 0), tmp_path / "report.html", []

    def sleep(seconds):
        text = output.read_text()
        seen.append(words(text))
        assert 'http-equiv="refresh"' in text
        write_metrics(folder, [made.line(epoch) for epoch in range(1, len(seen) + 1)])

    assert watch([folder], output, images=0, sleep=sleep) == []
    assert [re.search(r"no epoch finished|epoch 1 of 2", text)[0] for text in seen] == [
        "no epoch finished", "epoch 1 of 2"]
    text = output.read_text()
    assert "finished, 2 epochs" in text
    assert "refresh" not in text


def test_a_watched_page_says_that_a_run_was_interrupted(tmp_path):
    folder, output = made.run(tmp_path / "a", 1), tmp_path / "report.html"
    states = []

    def sleep(seconds):
        states.append(re.search(r"epoch 1 of 2(, interrupted)?", words(output.read_text()))[0])
        if len(states) == 1:
            gone = subprocess.Popen(["true"])
            gone.wait()
            (folder / ".lock").write_text(f"process {gone.pid} on {socket.gethostname()}\n")
        else:  # It is resumed.
            write_metrics(folder, [made.line(epoch) for epoch in (1, 2)])

    watch([folder], output, images=0, sleep=sleep)
    assert states == ["epoch 1 of 2", "epoch 1 of 2, interrupted"]


def gallery():
    """Two networks on four images, of which the second does not know the first unattacked."""
    x, labels = np.full((4, 2, 2, 1), 0.5, np.float32), np.array([0, 0, 1, 1])
    networks = [pictures.Attacked(run, x + 0.1, np.array([1 * (run == 1), 0, 1, 1]), np.array([0, -1, 0, 1]),
                                  np.eye(4, dtype=np.float32)) for run in (0, 1)]
    return pictures.Gallery("PGD-2", 0.1, x, labels, ("cat<", "dog"), networks)


def test_pictures_show_what_every_network_knows(tmp_path, monkeypatch):
    assert gallery().shown.tolist() == [1, 2]
    monkeypatch.setattr(pictures, "draw_galleries", lambda runs, images: ([gallery()], ["No pictures of c: gone."]))
    content = build(find_runs([made.run(tmp_path / "a"), made.run(tmp_path / "b")]), images=4)
    text = page.to_html(content)
    assert text.count("data:image/png;base64,") == 2 + 2 * (2 * 2 + 1)
    said = words(text)
    assert said.count("not finite") == 2
    assert "own image 1.000, same class 0.000, other classes 0.000" in said
    assert "cat&lt;" in said
    assert content["notes"] == ["No pictures of c: gone."]


@pytest.mark.slow
def test_pictures_of_trained_networks(tmp_path):
    config = tiny_config("standard", epochs=1)
    training.fit(config, tmp_path / "a", progress=False)
    training.fit(config, tmp_path / "own", progress=False, dataset=tiny_dataset())
    shutil.copytree(tmp_path / "a", tmp_path / "damaged")
    shutil.rmtree(tmp_path / "damaged" / "checkpoints" / "best")
    output = tmp_path / "report.html"
    notes = write_report([tmp_path / name for name in ("a", "own", "damaged")], output, images=20)
    assert [note.partition(":")[0] for note in notes] == ["No pictures of own", "No pictures of damaged"]
    text = output.read_text()
    assert "PGD-2, linf, epsilon 0.1" in text
    assert text.count("data:image/png;base64,") == 8 * 3 + 1
