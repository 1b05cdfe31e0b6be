import json

from morel_jax.reporting.judgements import Share, find_judgements
from morel_jax.reporting.runs import find_runs
from tests.reporting import made


def judged(folder):
    return find_judgements(find_runs([folder]))


def test_an_evaluation_is_read(tmp_path):
    made.evaluation(made.run(tmp_path / "a"))
    (found,), corrupted, notes = judged(tmp_path / "a")
    assert (found.name, found.threat) == ("a, best", "linf, epsilon 0.1, 40 images")
    assert list(found.columns) == ["clean", "pgd20", "fmn", "worst case"]
    assert found.columns["worst case"].accuracy == 37.5
    assert len(found.card["lines"]) == 2
    assert found.curve["radii"][-1] == 0.3
    assert not corrupted
    assert not notes


def test_unions_and_corruptions_are_read(tmp_path):
    folder = made.evaluation(made.run(tmp_path / "a"), "best/l2", card=False).parent
    (folder / "union.json").write_text(json.dumps(
        {"examples": 40, "clean": made.share(0.8), "union": made.share(0.25),
         "norms": {"l2": made.share(0.5) | {"epsilon": 0.5}, "linf": made.share(0.375) | {"epsilon": 0.1}}}))
    (folder / "corruptions.json").write_text(json.dumps({"examples": 9, "mce": 0.25, "accuracies": [0.8, 0.7]}))
    (union, of_norm), (corrupted,), notes = judged(tmp_path / "a")
    assert union.threat == "union of l2 0.5 and linf 0.1, 40 images"
    assert union.columns["worst case"] == Share(25.0, 20.0, 30.0)
    assert of_norm.name == "a, best/l2"
    assert (corrupted.mean, corrupted.severities) == (75.0, [80.0, 70.0])
    assert not notes


def test_what_is_unfinished_or_damaged_is_a_note(tmp_path):
    workdir = made.run(tmp_path / "a")
    for which in ("begun", "damaged", "card"):
        made.evaluation(workdir, which)
    (workdir / "evaluation" / "begun" / "summary.json").unlink()
    (workdir / "evaluation" / "begun" / "ledger.csv").write_text("header\n1\n2\n")
    (workdir / "evaluation" / "damaged" / "summary.json").write_text('{"settings": {}, "clean": {}, "attacks": {}}')
    (workdir / "evaluation" / "card" / "report_card.json").write_text("[]")
    (found,), _, notes = judged(workdir)
    assert found.name == "a, card"
    assert found.card is None
    assert len(notes) == 3
    assert "begun is unfinished, with 2 rows so far; the same command resumes it." in notes[0]
    assert "report_card.json" in notes[1]
    assert "damaged/summary.json" in notes[2]
