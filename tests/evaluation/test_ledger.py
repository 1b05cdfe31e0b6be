import csv

import numpy as np
import pytest

from morel_jax.evaluation.ledger import Images, Ledger, Row, fingerprint
from morel_jax.evaluation.pool import Finished

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


@pytest.mark.parametrize("cut", [1, 7, 20])
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


def finished(index, value):
    image = np.full((2, 2, 1), value, np.float32)
    return Finished(index, 1, {"judged": image, "rounded": np.round(image * 255).astype(np.uint8)})


def test_images_are_kept_by_index_and_added_to(tmp_path):
    Images(tmp_path, "fgsm", (3, 2, 2, 1)).add([finished(2, 0.2)])
    Images(tmp_path, "fgsm", (3, 2, 2, 1)).add([finished(0, 1.0)])
    np.testing.assert_allclose(np.load(tmp_path / "fgsm.npy")[:, 0, 0, 0], [1.0, 0.0, 0.2])
    np.testing.assert_array_equal(np.load(tmp_path / "fgsm_uint8.npy")[:, 0, 0, 0], [255, 0, 51])
    with pytest.raises(ValueError, match=r"holds float32\(3, 2, 2, 1\), not float32\(4, 2, 2, 1\)"):
        Images(tmp_path, "fgsm", (4, 2, 2, 1))


def test_fingerprint_sees_values_names_shapes_and_types():
    tree = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2)}
    others = [{"a": tree["a"] + 1, "b": tree["b"]}, {"c": tree["a"], "b": tree["b"]},
              {"a": tree["a"].reshape(2, 2), "b": tree["b"]}, {"a": tree["a"].view(np.int32), "b": tree["b"]}]
    assert fingerprint(tree) == fingerprint(dict(tree))
    assert len({fingerprint(other) for other in [tree, *others]}) == 5
