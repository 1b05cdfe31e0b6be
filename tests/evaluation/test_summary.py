import numpy as np
import pytest

from morel_jax.evaluation.ledger import Ledger, Row
from morel_jax.evaluation.summary import read_summary, summarise, to_markdown, wilson_interval
from morel_jax.files import DamagedFileError

CLEAN_RIGHT = np.array([True, True, True, False])


def attacked(attack, index, broken, distance=0.1, steps=10, violation=""):
    return Row(attack, index, 0, 0, int(broken), int(broken), distance, steps, int(broken), violation)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path, {})
    for name, broken in (("fgsm", [0, 0, 0]), ("pgd20", [1, 0, 0]), ("pgd100", [1, 0, 0]), ("cw", [0, 1, 0])):
        ledger.add([attacked(name, index, flag) for index, flag in enumerate(broken)])
        ledger.add([Row.misclassified(name, 3, 0, 1)])
    yield ledger
    ledger.close()


def columns(*names):
    return {name: (name,) for name in names}


def test_wilson_interval_against_published_values():
    """Of Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for count, total, expected in ((81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)),
                                   (1, 29, (0.0061, 0.1718))):
        np.testing.assert_allclose(wilson_interval(count, total), expected, atol=5e-5)


def test_accuracies_average_and_worst_case(ledger):
    summary = summarise(ledger, columns("fgsm", "pgd20", "pgd100", "cw"), np.arange(4), CLEAN_RIGHT)
    assert summary["clean"]["accuracy"] == 0.75
    assert {name: entry["correct"] for name, entry in summary["attacks"].items()} == {
        "fgsm": 3, "pgd20": 2, "pgd100": 2, "cw": 2}
    assert summary["average"]["accuracy"] == pytest.approx((0.75 + 0.5 + 0.5 + 0.5) / 4)
    assert summary["worst_case"]["correct"] == 1  # Two images, each broken by another attack.
    assert summary["attacks"]["pgd20"]["median_steps"] == 10
    assert summary["attacks"]["fgsm"]["median_steps"] is None


def test_no_average_without_the_papers_four(ledger):
    assert "average" not in summarise(ledger, columns("fgsm", "cw"), np.arange(4), CLEAN_RIGHT)


def test_an_ensemble_counts_what_any_of_its_members_broke(tmp_path):
    ledger = Ledger(tmp_path, {})
    ledger.add([attacked("a", index, flag) for index, flag in enumerate([1, 0, 0])] + [Row.misclassified("a", 3, 0, 1)])
    ledger.add([attacked("b", 1, 0), attacked("b", 2, 1)])
    entry = summarise(ledger, {"both": ("a", "b")}, np.arange(4), CLEAN_RIGHT)["attacks"]["both"]
    assert entry["correct"] == 1
    assert entry["accuracy_after"] == {"a": 0.5, "b": 0.25}


def test_violations_are_reported_and_do_not_break(tmp_path):
    ledger = Ledger(tmp_path, {})
    ledger.add([attacked("a", 0, 0, violation="ball"), attacked("a", 1, 0, violation="ball"), attacked("a", 2, 1)])
    ledger.add([Row.misclassified("a", 3, 0, 1)])
    summary = summarise(ledger, columns("a"), np.arange(4), CLEAN_RIGHT)
    assert summary["attacks"]["a"]["violations"] == {"ball": 2}
    assert summary["attacks"]["a"]["correct"] == 2
    text = to_markdown(summary | {"settings": {"norm": "linf", "epsilon": 0.1, "seed": 0}}, "network")
    assert "2 images outside (ball), not counted" in text


def test_logits_that_are_not_finite_are_counted_by_name(tmp_path):
    ledger = Ledger(tmp_path, {})
    ledger.add([Row("a", 0, 0, 0, 1, -1, 0.1, 1, 1), attacked("a", 1, 0), attacked("a", 2, 1)])
    ledger.add([Row.misclassified("a", 3, 0, 1)])
    summary = summarise(ledger, columns("a"), np.arange(4), CLEAN_RIGHT)
    assert summary["attacks"]["a"]["non_finite"] == 1
    assert summary["attacks"]["a"]["correct"] == 1
    text = to_markdown(summary | {"settings": {"norm": "linf", "epsilon": 0.1, "seed": 0}}, "network")
    assert "1 images with logits that are not finite, counted as broken" in text


def test_some_of_the_data_set(tmp_path):
    ledger = Ledger(tmp_path, {})
    ledger.add([attacked("a", 0, 1), attacked("a", 5, 0), attacked("a", 9, 1)])
    assert summarise(ledger, columns("a"), np.array([5, 9]), np.array([True, True]))["attacks"]["a"]["correct"] == 1


@pytest.mark.parametrize(("content", "message"), [
    ("", "summary.json is not valid JSON"),
    ('{"clean": {"accuracy": 1.0}, "attacks": {}}', "must have a field 'settings' of type dict; got nothing"),
    ('{"settings": {}, "clean": {"accuracy": NaN}, "attacks": {}}', r"give clean an accuracy in \[0, 1\]; got nan"),
    ('{"settings": {}, "clean": {"accuracy": 1}, "attacks": {"fgsm": {"accuracy": "1"}}}', "give fgsm .* got '1'"),
    ('{"settings": {}, "clean": {"accuracy": 1}, "attacks": {"fgsm": []}}', "give fgsm .* got None"),
])
def test_a_damaged_summary_is_one_line(tmp_path, content, message):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(DamagedFileError, match=message + ".* Delete it, and give the command again"):
        read_summary(tmp_path / "summary.json")


def test_transfer_has_its_own_average_and_no_part_in_the_worst_case(ledger, tmp_path):
    for name in ("fgsm", "pgd20", "pgd100", "cw"):
        ledger.add([attacked("transfer-" + name, index, 1) for index in range(3)] +
                   [Row.misclassified("transfer-" + name, 3, 0, 1)])
    names = [*("transfer-" + name for name in ("fgsm", "pgd20", "pgd100", "cw")), "fgsm"]
    summary = summarise(ledger, columns(*names), np.arange(4), CLEAN_RIGHT)
    assert summary["transfer_average"]["accuracy"] == 0
    assert summary["worst_case"]["correct"] == 3


def test_the_table(ledger):
    summary = summarise(ledger, columns("fgsm", "cw"), np.arange(4), CLEAN_RIGHT) | {
        "settings": {"norm": "linf", "epsilon": 0.1, "seed": 7}}
    lines = to_markdown(summary, "runs/a, best").splitlines()
    assert lines[0] == "## runs/a, best"
    assert "4 images, linf, epsilon 0.1, seed 7" in lines[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert rows[0] == ["attack", "accuracy, %", "95 % interval", ""]
    assert rows[2:] == [["none (clean)", "75.00", "30.06 to 95.44", ""], ["fgsm", "75.00", "30.06 to 95.44", ""],
                        ["cw", "50.00", "15.00 to 85.00", ""],
                        ["worst case over attacks", "50.00", "15.00 to 85.00", ""]]
