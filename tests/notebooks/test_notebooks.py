from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.small import as_users_compile

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ("quickstart", "functional_gradients", "pareto_front", "scaling", "own_parts", "own_network", "over_training")


def test_every_notebook_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_kept_with_the_outputs_of_one_run_from_top_to_bottom(name):
    cells = [cell for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= 2
    assert not [output for cell in cells for output in cell.outputs
                if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", as_users_compile()["XLA_FLAGS"])
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(FOLDER)}}).execute()
