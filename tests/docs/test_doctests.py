from pathlib import Path

import pytest

from tests.docs.doctests import run

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_examples_of_the_pages():
    failed, attempted = run(sorted(DOCS.rglob("*.md")))
    assert attempted > 50
    assert failed == 0


def test_a_wrong_example_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```pycon\n>>> 1 + 1\n3\n>>> 1 + 2\n3\n```\n")
    assert run([page]) == (1, 2)
