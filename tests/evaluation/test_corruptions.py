import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.data.corruptions import CORRUPTIONS
from morel_jax.evaluation import corruptions, evaluate_corruptions
from morel_jax.files import DamagedFileError
from tests.data import corrupted

NAMES = ["fog", "snow"]


def by_brightness(scale):
    """A network of three classes: which third of ``scale`` the image's first pixel is in."""
    def logits_fn(scale, x):
        return -jnp.abs(x[:, 0, 0, :1] * scale - (jnp.arange(3) + 0.5) / 3)

    return jax.tree_util.Partial(logits_fn, jnp.float32(scale))


@pytest.fixture
def folder(tmp_path):
    """Four dark images: at severity s the first pixel of ``fog`` is 50 s, and that of ``snow`` 0."""
    images, labels = np.zeros((4, 3, 3, 1), np.uint8), np.array([0, 0, 1, 2])
    corrupted.write(tmp_path, images, labels, NAMES)
    np.save(tmp_path / "fog.npy", np.concatenate([images + np.uint8(50 * severity) for severity in range(1, 6)]))
    np.save(tmp_path / "snow.npy", np.concatenate([images] * 5))
    return tmp_path


def test_accuracies_and_mce_by_hand(folder):
    result = evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES)
    # 50, 100, ..., 250 of 255: classes 0, 1, 1, 2, 2.
    assert result["corruptions"]["fog"]["accuracies"] == [0.5, 0.25, 0.25, 0.25, 0.25]
    assert result["corruptions"]["snow"]["accuracies"] == [0.5] * 5
    assert result["corruptions"]["fog"]["error"] == pytest.approx(0.7)
    assert result["accuracies"] == [0.5, 0.375, 0.375, 0.375, 0.375]
    assert result["mce"] == pytest.approx(0.6)
    assert result["examples"] == 4
    assert "relative_mce" not in result
    assert result == json.loads((folder / "out" / "corruptions.json").read_text())


def test_examples_are_the_same_at_each_severity_and_in_proportion(folder):
    result = evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=["snow"], examples=3)
    assert result["examples"] == 3
    assert len(set(result["corruptions"]["snow"]["accuracies"])) == 1


def test_errors_relative_to_a_baseline(folder):
    evaluate_corruptions(by_brightness(1), folder, folder / "base", corruptions=NAMES)
    result = evaluate_corruptions(by_brightness(0), folder, folder / "out", corruptions=NAMES,
                                  baseline=folder / "base" / "corruptions.json")
    assert result["mce"] == pytest.approx(0.5)
    assert result["relative_mce"] == pytest.approx((0.5 / 0.7 + 0.5 / 0.5) / 2)
    with pytest.raises(ValueError, match=r"baseline .* must give gaussian_noise an error in \(0, 1\]; got None"):
        evaluate_corruptions(by_brightness(0), corrupted_all(folder), folder / "all",
                             baseline=folder / "base" / "corruptions.json")


def corrupted_all(folder):
    every = folder / "every"
    every.mkdir()
    corrupted.write(every, np.zeros((4, 3, 3, 1), np.uint8), np.array([0, 0, 1, 2]))
    return every


def test_the_published_fifteen_by_default(folder):
    result = evaluate_corruptions(by_brightness(1), corrupted_all(folder), folder / "out")
    assert list(result["corruptions"]) == list(CORRUPTIONS)
    assert len(CORRUPTIONS) == 15


def test_resumed_after_what_was_finished(folder, monkeypatch):
    whole = evaluate_corruptions(by_brightness(1), folder, folder / "whole", corruptions=NAMES)
    original, names = corruptions._evaluated, []

    def counted(network, rows, name, progress):
        if name == "snow" and not names[1:]:
            names.append(name)
            raise KeyboardInterrupt
        names.append(name)
        return original(network, rows, name, progress)

    monkeypatch.setattr(corruptions, "_evaluated", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES)
    assert evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES) == whole
    assert names == ["fog", "snow", "snow"]
    assert (folder / "out" / "corruptions.json").read_bytes() == (folder / "whole" / "corruptions.json").read_bytes()
    np.save(folder / "fog.npy", np.load(folder / "fog.npy")[::-1])  # A file that changed is evaluated again.
    changed = evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES)
    assert names == ["fog", "snow", "snow", "fog"]
    assert changed["corruptions"]["fog"]["accuracies"] == [0.25, 0.25, 0.25, 0.25, 0.5]


def test_another_networks_folder_is_refused(folder):
    evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES)
    before = (folder / "out" / "corruptions.json").read_bytes()
    with pytest.raises(ValueError, match=r"corruptions\.json holds an evaluation with another network; give another"):
        evaluate_corruptions(by_brightness(2), folder, folder / "out", corruptions=NAMES)
    assert (folder / "out" / "corruptions.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}', '{"settings": {}, "corruptions": {"fog": 3}}'])
def test_a_damaged_result_is_one_line(folder, content):
    (folder / "corruptions.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"corruptions\.json .*Delete it and evaluate again") as error:
        evaluate_corruptions(by_brightness(1), folder, folder, corruptions=NAMES)
    assert "\n" not in str(error.value)


def test_logits_that_are_not_finite_are_wrong(folder):
    logits_fn = jax.tree_util.Partial(lambda x: jnp.where(x[:, 0, 0] > 0.5, jnp.nan, 0.0) * jnp.ones(3))
    result = evaluate_corruptions(logits_fn, folder, folder / "out", corruptions=["fog"])
    assert result["corruptions"]["fog"]["accuracies"] == [0.5, 0.5, 0, 0, 0]
    assert result["corruptions"]["fog"]["non_finite"] == 12
    assert "On 12 images the logits are not finite" in corruptions.to_markdown(result, "net")


@pytest.mark.parametrize(("options", "message"), [
    (dict(examples=5), "examples must be"),
    (dict(corruptions=[]), "must name at least one corruption"),
    (dict(image_shape=(3, 3, 3)), r"fog\.npy must have images of shape \(3, 3, 3\); got \(3, 3, 1\)"),
    (dict(width=0), "width must be"),
])
def test_what_cannot_be_used_is_one_line(folder, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_corruptions(by_brightness(1), folder, folder / "out", **{"corruptions": NAMES} | options)
    assert not (folder / "out").exists()


def test_labels_that_are_no_classes(folder):
    np.save(folder / "labels.npy", np.full(20, 3))
    with pytest.raises(ValueError, match=r"labels\.npy"):
        evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES)


def test_a_missing_corruption(folder):
    with pytest.raises(FileNotFoundError, match=f"no file {folder}/gaussian_noise.npy"):
        evaluate_corruptions(by_brightness(1), folder, folder / "out")


def test_the_table(folder):
    result = evaluate_corruptions(by_brightness(1), folder, folder / "out", corruptions=NAMES)
    text = corruptions.to_markdown(result, "net, best")
    assert text.startswith("## net, best: common corruptions\n\n4 images at each of 5 severities. Mean corruption "
                           "error 60.00 %, ")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert cells[0] == ["accuracy, %", "1", "2", "3", "4", "5", "mean"]
    assert cells[2] == ["fog", "50.00", "25.00", "25.00", "25.00", "25.00", "30.00"]
    assert cells[-1] == ["mean", "50.00", "37.50", "37.50", "37.50", "37.50", "40.00"]
