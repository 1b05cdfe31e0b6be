"""The comparison with other libraries: every claim names what it rests on."""
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "compared.md"
# What is said where there is nothing.
NOTHING = {"-", "not yet", "none yet"}


def rows():
    """The cells of each row of the tables of features, without their heads."""
    for table in re.findall(r"^\| +\| morel_jax \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text(), re.M):
        for line in table.splitlines():
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_every_claim_of_ours_names_a_test_that_exists():
    claims = {name: ours for name, ours, *_ in rows() if ours not in NOTHING}
    assert len(claims) > 25
    for name, ours in claims.items():
        tests = re.findall(r"\]\((.*?)\)", ours)
        assert tests, name
        for test in tests:
            assert test.startswith("../../tests/"), name
            assert "def test_" in (PAGE.parent / test).read_text(), name


def test_every_cell_of_another_names_its_source():
    sources = dict(re.findall(r"^\[([\w-]+)\]: (https://\S+)$", PAGE.read_text(), re.M))
    used = set(re.findall(r"\]\[([\w-]+)\]", PAGE.read_text()))
    assert used == sources.keys()
    for name, _, advermorel, *others in rows():
        assert len(others) == 7, name
        for cell in [advermorel, *others]:
            assert cell in NOTHING or cell == "ART's" == advermorel or "][" in cell, (name, cell)
