import pytest


@pytest.mark.slow
def test_quickstart_is_plainly_robust(quickstart):
    folder, printed = quickstart
    table = {line[:24].strip(): [float(number) for number in line[24:].split()]
             for line in printed.splitlines() if ", best" in line or ", last" in line}
    assert set(table) == {"MOREL, best", "MOREL, last", "undefended, best", "undefended, last"}
    assert table["MOREL, last"][1] > table["undefended, last"][1] + 30
    assert table["undefended, last"][0] > 70
    assert (folder / "quickstart.png").stat().st_size > 20_000
