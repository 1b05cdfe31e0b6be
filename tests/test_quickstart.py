import pytest

from tests.commands import call


@pytest.mark.slow
def test_quickstart_is_plainly_robust(quickstart):
    folder, printed = quickstart
    table = {line[:24].strip(): [float(number) for number in line[24:].split()]
             for line in printed.splitlines() if ", best" in line or ", last" in line}
    assert set(table) == {"MOREL, best", "MOREL, last", "undefended, best", "undefended, last"}
    assert table["MOREL, last"][1] > table["undefended, last"][1] + 30
    assert table["undefended, last"][0] > 70
    assert (folder / "quickstart.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", ["n" * 300, "file/run"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    status, _, error = call(monkeypatch, "quickstart", f"--workdir={tmp_path / name}")
    (line,) = error.splitlines()
    assert status == 2
    assert line.startswith(f"error: --workdir must be a folder that can be written; got {tmp_path}/{name[:50]}")
