import json

import numpy as np
import pytest

from morel_jax.attacks import DDN, FMN
from morel_jax.evaluation import distance_curve, evaluate
from morel_jax.evaluation.distances import DistanceCurve, nearest
from morel_jax.evaluation.ledger import Ledger, Row
from tests.attacks.linear import Linear

MODEL = Linear(classes=2, count=30, seed=4)
LABELS = np.where(np.arange(30) % 10 == 0, 1 - MODEL.y, MODEL.y)
EXPECTED = np.where(np.arange(30) % 10 == 0, 0, MODEL.distances("linf"))
EPSILON = float(np.sort(EXPECTED)[13:15].mean())
# Of one program.
NAMES = [("near", FMN(60)), ("coarse", FMN(60, gamma=0.6)), "fgsm"]


def judge(folder, **options):
    return evaluate(MODEL.logits, MODEL.x, LABELS, NAMES, folder, **dict(epsilon=EPSILON, width=4) | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, judge(folder)


def test_a_row_has_the_distance_and_the_verdict_at_the_radius(whole):
    folder, summary = whole
    ledger = Ledger(folder, summary["settings"])
    rows = ledger.rows("near")
    ledger.close()
    np.testing.assert_array_equal([rows[one].broken for one in range(30)], EXPECTED <= EPSILON)
    np.testing.assert_allclose([rows[one].distance for one in range(30)], EXPECTED, rtol=0.003)
    assert all(row.prediction != row.label and not row.violation for row in rows.values())
    assert summary["attacks"]["near"]["correct"] == sum(EXPECTED > EPSILON) == 16
    assert summary["attacks"]["fgsm"]["correct"] == 16
    assert "curve" not in summary["attacks"]["fgsm"]


def test_the_curve_of_one_run_is_what_every_radius_gives(whole):
    folder, summary = whole
    curve = distance_curve(folder, "near")
    radii = np.array([0, *np.sort(EXPECTED)[3:]])
    np.testing.assert_allclose(curve.radii, radii, rtol=0.003)
    np.testing.assert_allclose(curve.accuracies, 1 - np.arange(3, 31) / 30)
    assert curve.at(EPSILON) == summary["attacks"]["near"]["accuracy"]
    between = ((radii[:-1] + radii[1:]) / 2)[np.diff(radii) > 0.01 * radii[1:]]
    assert len(between) > 15
    np.testing.assert_allclose(curve.at(between), [np.mean(radius < EXPECTED) for radius in between])
    assert curve.at(0) == summary["clean"]["accuracy"] == 0.9
    assert curve.at(np.inf) == 0
    assert curve.median == pytest.approx(np.median(EXPECTED[EXPECTED > 0]), rel=0.003)


def test_the_curve_of_all_has_the_nearest_image(whole):
    folder, _ = whole
    both, near, coarse = distance_curve(folder), distance_curve(folder, "near"), distance_curve(folder, "coarse")
    radii = np.concatenate([near.radii, coarse.radii])
    np.testing.assert_array_equal(both.at(radii), np.minimum(near.at(radii), coarse.at(radii)))
    assert (near.at(radii) < coarse.at(radii)).any()


def test_files_do_not_depend_on_the_batch_and_attacks_can_be_added(whole, tmp_path):
    folder, _ = whole
    evaluate(MODEL.logits, MODEL.x, LABELS, NAMES[:1], tmp_path, epsilon=EPSILON, width=4, examples=11)
    judge(tmp_path, batch_size=3)
    for name in ("ledger.csv", "summary.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_nothing_found_is_an_infinite_distance(tmp_path):
    """One step sees the image alone. Such images stay robust at every radius."""
    summary = evaluate(MODEL.logits, MODEL.x, LABELS, [("blind", DDN(1))], tmp_path, epsilon=0.1, norm="l2")
    assert summary["attacks"]["blind"]["correct"] == 27
    assert summary["attacks"]["blind"]["curve"] == {"median": None, "radii": [0.0], "accuracies": [0.9]}
    curve = distance_curve(tmp_path)
    assert curve.at([0.0, 1.0, 100.0]).tolist() == [0.9, 0.9, 0.9]
    assert curve.median == np.inf


def test_radii_are_compared_as_the_rows_were():
    """In float32: the text of a distance may be a larger number than the radius that it is equal to."""
    distance = np.float32(8 / 255)
    assert float(str(distance)) > 8 / 255
    rows = {0: Row("a", 0, 0, 0, 1, 1, float(str(distance)), 1, 1), 1: Row("a", 1, 0, 0, 0, 0, 0.0, 1, 0),
            2: Row("a", 2, 0, 0, 0, 1, 0.5, 1, 0, "box"), 3: Row.misclassified("a", 3, 0, 1)}
    found = nearest(rows, np.array([3, 0, 1, 2]))
    np.testing.assert_array_equal(found, np.float32([0, distance, np.inf, np.inf]))
    curve = DistanceCurve.of(found, np.array([False, True, True, True]))
    assert curve.at(8 / 255) == 0.5
    assert curve.at(np.nextafter(distance, np.float32(0))) == 0.75
    again = DistanceCurve.from_dict(json.loads(json.dumps(curve.to_dict())))
    np.testing.assert_array_equal(again.radii, curve.radii)
    assert again.median == np.inf


@pytest.mark.parametrize("radius", [-0.1, np.nan, [0.1, -1.0]])
def test_no_radius(whole, radius):
    with pytest.raises(ValueError, match="radius must be at least 0; got"):
        distance_curve(whole[0]).at(radius)


def test_an_attack_without_a_curve(whole, tmp_path):
    with pytest.raises(ValueError, match=r"attack must be a minimum-norm attack of .*, near or coarse; got 'fgsm'"):
        distance_curve(whole[0], "fgsm")
    summary = {name: whole[1][name] for name in ("settings", "clean")}
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"attacks": {"fgsm": whole[1]["attacks"]["fgsm"]}}))
    with pytest.raises(ValueError, match="which has none; got None"):
        distance_curve(tmp_path)
    with pytest.raises(FileNotFoundError):
        distance_curve(tmp_path / "nowhere")
