"""The pages of both studies say what their results say."""
import json
from pathlib import Path

from benchmarks.study import page, results
from morel_jax.reproduction.page import study_texts

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tables_are_the_reports():
    report = json.loads((DOCS / "results" / "small_cpu" / "report.json").read_text())
    expected = [[row["label"], *study_texts(row)[:3]] for rows in report["study"].values() for row in rows]
    lines = [line.strip("| \n").split(" | ") for line in (DOCS / "study_first.md").read_text().splitlines()
             if line.startswith("| ")]
    labels = {row[0] for row in expected}
    found = [[cell.strip(" |") for cell in line] for line in lines if line[0] in labels]
    assert [row + [""] * (4 - len(row)) for row in found] == expected


def test_the_figures_are_there():
    text = (DOCS / "study_first.md").read_text()
    for figure in ("baselines", "terms", "batch", "scalarization"):
        name = f"results/small_cpu/figure_{figure}.png"
        assert f"]({name})" in text
        assert (DOCS / name).exists()


def test_the_tables_are_those_of_the_stored_results():
    text = page.PAGE.read_text()
    assert text.count("<!-- end -->") == len(page.tables({})) == text.count("<!-- ") // 2
    assert page.with_tables(text, results.read()) == text
