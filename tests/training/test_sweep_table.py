import csv

import pytest

from morel_jax.training.fit import Outcome
from morel_jax.training.members import Member
from morel_jax.training.sweep_table import table_rows, to_csv, to_markdown


def outcome(name, accuracies, diverged=None):
    """Of a member with these (clean, robust) of its epochs, None for one that was not judged."""
    history = [{"epoch": epoch} | (dict(zip(("clean_accuracy", "robust_accuracy"), pair, strict=True)) if pair else {})
               for epoch, pair in enumerate(accuracies, start=1)]
    return Outcome(Member(name, {}, None), None if diverged else object(), history, diverged)


@pytest.fixture
def rows():
    return table_rows([outcome("a", [(0.5, 0.25), None, (0.75, 0.25), (0.875, 0.125)]),
                       outcome("b", [(0.5, 0.5)], {"epoch": 2, "step": 9}), outcome("c", [], {"epoch": 1, "step": 0})])


def test_table_has_best_and_last(rows):
    assert rows[0] == {"member": "a", "best_epoch": 3, "best_clean_accuracy": 0.75, "best_robust_accuracy": 0.25,
                       "last_epoch": 4, "last_clean_accuracy": 0.875, "last_robust_accuracy": 0.125,
                       "diverged_at_step": None}
    assert (rows[1]["best_epoch"], rows[1]["last_epoch"], rows[1]["diverged_at_step"]) == (1, None, 9)
    assert (rows[2]["best_epoch"], rows[2]["diverged_at_step"]) == (None, 0)


def test_table_as_text(rows):
    text = to_markdown(rows, "runs/a")
    assert text.startswith("## runs/a\n\n| member")
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]] == [
        ["a", "3", "75.00", "25.00", "87.50", "12.50", ""],
        ["b", "1", "50.00", "50.00", "", "", "diverged at step 9"],
        ["c", "", "", "", "", "", "diverged at step 0"]]
    read = list(csv.DictReader(to_csv(rows).splitlines()))
    assert [row["member"] for row in read] == ["a", "b", "c"]
    assert read[0]["best_robust_accuracy"] == "0.25"
    assert read[2]["best_robust_accuracy"] == ""
