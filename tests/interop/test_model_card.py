import json

import pytest

from morel_jax.interop.model_card import model_card, to_markdown
from tests.small import small_config

HISTORY = [{"epoch": 1, "step": 6, "clean_accuracy": 0.5, "robust_accuracy": 0.4}, {"epoch": 2, "step": 12},
           {"epoch": 3, "step": 18, "clean_accuracy": 0.6, "robust_accuracy": 0.4}]
RECORD = {"step": 18, "history": HISTORY, "best": 0.4, "seconds": 0.0}
DATASET = {"name": "tiny", "num_classes": 10, "image_shape": [28, 28, 1], "train": 96, "test": 40}
SUMMARY = {"examples": 20, "settings": {"norm": "linf", "epsilon": 0.1, "seed": 3},
           "clean": {"accuracy": 0.75, "interval": [0.5, 0.9], "correct": 15},
           "attacks": {"pgd20": {"accuracy": 0.25, "interval": [0.1, 0.5], "correct": 5, "violations": {}}},
           "worst_case": {"accuracy": 0.25, "interval": [0.1, 0.5], "correct": 5}}


def card(which="best", record=RECORD, summary=None, beginning=None, **changes):
    run = {"config": small_config(**changes).to_dict(), "versions": {"jax": "1.2"}, "commit": None}
    if beginning:
        run["init_from"] = beginning
    return model_card(run, which, record, summary, 1234567, DATASET, {"model.pt": "weights"})


@pytest.mark.parametrize(("step", "lines", "epoch", "clean"), [
    (18, 3, 3, 0.6), (12, 2, 2, None), (6, 1, 1, 0.5),
    (15, 2, None, None), (9, 1, None, None), (3, 0, None, None)])
def test_accuracies_are_those_of_the_checkpoints_own_weights(step, lines, epoch, clean):
    """The last line's, where the checkpoint is of that step and was validated."""
    found = card("last", RECORD | {"step": step, "history": HISTORY[:lines]})
    assert (found["step"], found["epoch"], found.get("validation", {}).get("clean_accuracy")) == (step, epoch, clean)
    assert "evaluation" not in found
    text = to_markdown(found)
    assert (f"last, step {step}, epoch {epoch} |" if epoch else f"last, step {step} (in mid-epoch) |") in text
    assert ("While training" in text) == (clean is not None)


@pytest.mark.parametrize(("changes", "images"), [
    ({}, "40 test images, on which the best checkpoint was also chosen"),
    ({"validation__examples": 10}, "10 test images, on which the best checkpoint was also chosen"),
    ({"validation__split": "holdout", "validation__holdout": 16}, "16 training images held out")])
def test_which_images(changes, images):
    assert card(**changes)["validation"]["images"] == images


def test_markdown_says_how_accuracies_were_measured():
    text = to_markdown(card(summary=SUMMARY))
    assert text.startswith("# convnet_small, morel_mart, tiny\n")
    assert "1,234,567 parameters" in text
    assert "clean 60.00 %, 40.00 % under PGD, 2 steps of 0.05 (linf, epsilon 0.1)" in text
    assert "on 20 test images, linf, epsilon 0.1, seed 3:" in text
    assert "| pgd20 | 25.00 | 10.00 to 50.00 |" in text
    assert "| worst case over attacks | 25.00 |" in text
    assert "- `model.pt`: weights" in text
    assert "| commit | unknown |" in text
    assert json.loads(json.dumps(card(summary=SUMMARY)))["evaluation"]["attacks"]["pgd20"]["accuracy"] == 0.25


def test_no_folder_of_the_machine_is_told():
    text = json.dumps(card(data__data_dir="/home/me/tfds", data__archive_dir="/home/me/archives",
                           data__cache_dir="/home/me/cache", data__extra="/home/me/extra.npz"))
    assert "/home/me" not in text
    assert '"extra": "extra.npz"' in text
    text = json.dumps(card(data__name="folder:/home/me/birds"))
    assert "/home/me" not in text


def test_the_run_that_it_begins_with_is_named_without_its_folder():
    made = card(beginning={"workdir": "/home/me/runs/cifar10", "which": "last"})
    assert "batch size 16, from the weights of cifar10, last |" in to_markdown(made)
    assert "/home/me" not in json.dumps(made)
    assert "batch size 16 |" in to_markdown(card())


def test_without_history_or_evaluation():
    text = to_markdown(card(record=RECORD | {"history": []}, model__mean=(0.5,), model__std=(0.25,)))
    assert "While training" not in text
    assert "Not evaluated by" in text
    assert "normalised inside with mean (0.5,) and std (0.25,)" in text
