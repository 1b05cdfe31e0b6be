import csv
import json

import pytest

from morel_jax.evaluation.ledger import Ledger, Row
from morel_jax.files import DamagedFileError

SETTINGS = {"epsilon": 0.1, "seed": 0}


def row(attack="fgsm", index=0, broken=1, violation=""):
    return Row(attack, index, 3, 3, broken, 5, 0.1, 20, 0, violation)


def test_rows_come_back_as_they_were(tmp_path):
    ledger = Ledger(tmp_path, SETTINGS)
    ledger.add([row(index=4), row(index=2, broken=0, violation="nan")])
    ledger.close()
    assert Ledger(tmp_path, SETTINGS).rows("fgsm") == {4: row(index=4), 2: row(index=2, broken=0, violation="nan")}


def test_rows_are_on_disk_at_once_and_any_csv_reader_reads_them(tmp_path):
    ledger = Ledger(tmp_path, SETTINGS)
    ledger.add([row()])
    with open(tmp_path / "ledger.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["attack"] == "fgsm"
    assert float(line["distance"]) == 0.1
    ledger.close()


@pytest.mark.parametrize("cut", [1, 12, 30])
def test_a_torn_last_line_was_never_written(tmp_path, cut):
    ledger = Ledger(tmp_path, SETTINGS)
    ledger.add([row(index=0), row(index=1)])
    ledger.close()
    content = (tmp_path / "ledger.csv").read_bytes()
    (tmp_path / "ledger.csv").write_bytes(content[:-cut])
    assert list(Ledger(tmp_path, SETTINGS).rows("fgsm")) == [0]
    # What is added next begins on a line of its own.
    again = Ledger(tmp_path, SETTINGS)
    again.add([row(index=1)])
    assert (tmp_path / "ledger.csv").read_bytes() == content


def test_order_of_arrival_does_not_matter(tmp_path):
    rows = [row("square", 1), row("fgsm", 10), row("fgsm", 9), row("extra", 0)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        ledger = Ledger(tmp_path / name, SETTINGS)
        ledger.add(order)
        ledger.sort(["square", "fgsm"])
        ledger.close()
    assert (tmp_path / "a/ledger.csv").read_bytes() == (tmp_path / "b/ledger.csv").read_bytes()
    assert [line.split(",")[:2] for line in (tmp_path / "a/ledger.csv").read_text().splitlines()[1:]] == [
        ["square", "1"], ["fgsm", "9"], ["fgsm", "10"], ["extra", "0"]]


def test_other_settings_are_an_error_that_lists_them(tmp_path):
    Ledger(tmp_path, SETTINGS).close()
    with pytest.raises(ValueError, match=r"move this one away, or use these values:\n  epsilon: 0.1 there, 0.2 now"):
        Ledger(tmp_path, SETTINGS | {"epsilon": 0.2})


def test_a_surrogate_may_come_later_but_not_change(tmp_path):
    Ledger(tmp_path, SETTINGS).close()
    Ledger(tmp_path, SETTINGS | {"surrogate": "a"}).close()
    Ledger(tmp_path, SETTINGS).close()
    with pytest.raises(ValueError, match="surrogate: 'a' there, 'b' now"):
        Ledger(tmp_path, SETTINGS | {"surrogate": "b"})


def written(folder, settings=SETTINGS):
    """``ledger.csv`` with rows for images 0 and 1."""
    ledger = Ledger(folder, settings)
    ledger.add([row(index=0), row(index=1, broken=0)])
    ledger.close()
    return folder / "ledger.csv"


def replaced(old, new):
    return lambda content: content.replace(old, new, 1)


@pytest.mark.parametrize(("damage", "message"), [
    (replaced(b"fgsm,1,3,3,0,", b"fgsm,1,3,3,1,"), r"ledger.csv, line 3 \(attack 'fgsm', image '1'\) is not as it was"),
    (replaced(b"fgsm,0", b"cw,0"), r"line 2 \(attack 'cw', image '0'\)"),
    (replaced(b"fgsm,0", b"fgsm,7"), r"line 2 \(attack 'fgsm', image '7'\)"),
    (replaced(b",0.1,", b",x,"), r"line 2 \(attack 'fgsm', image '0'\)"),
    (replaced(b"fgsm", b"fg\0m"), r"line 2 \(attack 'fg\\x00m'"),
    (replaced(b"fgsm", b"\xff"), "line 2"),
    (lambda content: content.replace(b"\n", b"\r\n"), "line 1: the columns must be attack,index"),
    (lambda content: content + b"\n", r"line 4 \(attack '', image ''\)"),
    (lambda content: content + b"{}\n", r"line 4 \(attack '{}', image ''\)"),
    (replaced(b",check", b",sum"), "line 1: the columns must be attack,index"),
    (replaced(b",check", b""), "was written by an earlier version of this library, without checksums"),
])
def test_a_changed_ledger_is_one_line_that_names_the_place(tmp_path, damage, message):
    path = written(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes(), (tmp_path / "settings.json").read_bytes()
    with pytest.raises(DamagedFileError, match=message) as error:
        Ledger(tmp_path, SETTINGS)
    assert "\n" not in str(error.value)
    assert (path.read_bytes(), (tmp_path / "settings.json").read_bytes()) == before


def test_every_changed_byte_of_a_row_is_found(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    for place in range(content.index(b"\n") + 1, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        with pytest.raises(DamagedFileError):
            Ledger(tmp_path, SETTINGS)


def test_a_deleted_line_is_an_image_to_attack_again(tmp_path):
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert list(Ledger(tmp_path, SETTINGS).rows("fgsm")) == [1]


def test_rows_without_settings_are_refused(tmp_path):
    path = written(tmp_path)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DamagedFileError, match=r"ledger\.csv has rows, but no settings\.json beside it"):
        Ledger(tmp_path, SETTINGS | {"epsilon": 0.2})
    path.unlink()
    Ledger(tmp_path, SETTINGS)


def test_settings_that_were_changed_to_fit_are_found(tmp_path):
    written(tmp_path)
    path = tmp_path / "settings.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(DamagedFileError, match=r"line 2 .*, or settings.json is not"):
        Ledger(tmp_path, SETTINGS | {"epsilon": 0.2})


def test_rows_of_another_evaluation_are_found(tmp_path):
    path, other = written(tmp_path / "a"), written(tmp_path / "b", {"epsilon": 0.2, "seed": 0})
    path.write_bytes(path.read_bytes() + other.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(DamagedFileError, match="line 4"):
        Ledger(tmp_path / "a", SETTINGS)


@pytest.mark.parametrize(("content", "message"), [
    ("", "settings.json is not valid JSON"), ("[1]", "settings.json must hold a JSON object; got list"),
    ("[" * 100_000, "nested too deeply"),
])
def test_damaged_settings_are_one_line(tmp_path, content, message):
    written(tmp_path)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(DamagedFileError, match=message):
        Ledger(tmp_path, SETTINGS)


def test_two_rows_for_an_image_must_say_the_same(tmp_path):
    path = written(tmp_path)
    first, other = path.read_bytes(), tmp_path / "other"
    ledger = Ledger(other, SETTINGS)
    ledger.add([row(index=0, broken=0)])
    ledger.close()
    path.write_bytes(first + first.splitlines(keepends=True)[1])  # As two processes in one folder may leave it.
    Ledger(tmp_path, SETTINGS).close()
    assert path.read_bytes() == first
    path.write_bytes(first + (other / "ledger.csv").read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(DamagedFileError, match="line 4: a second row for attack fgsm, image 0"):
        Ledger(tmp_path, SETTINGS)


def test_what_was_measured_by_another_version_may_come_later(tmp_path):
    """A program's print is comparable within one version of JAX; answers are compared up to rounding, and kept."""
    settings = SETTINGS | {"network_answers": [1.0, -2.0], "network_program_jax_1": "a"}
    path = written(tmp_path, settings)
    before = path.read_bytes()
    again = SETTINGS | {"network_answers": [1.0001, -2.0], "network_program_jax_2": "b"}
    Ledger(tmp_path, again).close()
    assert path.read_bytes() == before
    stored = json.loads((tmp_path / "settings.json").read_text())
    assert stored == settings | {"network_program_jax_2": "b"}
    with pytest.raises(ValueError, match="network_program_jax_2: 'b' there, 'c' now"):
        Ledger(tmp_path, again | {"network_program_jax_2": "c"})
