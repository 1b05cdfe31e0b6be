"""The pages of both studies say what their results say."""
import json
import re
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
    text, stored = page.PAGE.read_text(), results.read()
    there = re.findall("<!-- (\\w+) -->\n\n[|]", text)
    assert set(there) == {name for name, table in page.tables(stored).items() if table} > {"compared", "spreads"}
    assert page.with_tables(text, stored) == text


def test_the_numbers_in_its_sentences_are_in_its_tables():
    lines = page.PAGE.read_text().splitlines()
    rows = "\n".join(line for line in lines if line.startswith("|"))
    said = {number for line in lines if not line.startswith("|") for number in re.findall(r"[-+]\d+\.\d\d", line)}
    assert said
    assert all(number in rows for number in said), said
