import re
import xml.etree.ElementTree as ElementTree

import pytest

from morel_jax.reporting.chart import Curve, line_chart


def texts(svg, kind):
    return [one.text for one in ElementTree.fromstring(svg).iter("text") if one.get("class") == kind]


def places(svg):
    """(x, y) of the first path's points."""
    return [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d. ]+)", re.search(r' d="([^"]+)', svg)[1])]


def test_points_lie_where_they_should():
    svg = line_chart("loss", [Curve("a", 0, [(1, 0.0), (2, 10.0), (3, 5.0)])])
    first, second, third = places(svg)
    assert first[0] < second[0] < third[0]
    assert second[1] < third[1] < first[1]
    assert third[1] == pytest.approx((first[1] + second[1]) / 2, abs=0.1)
    assert texts(svg, "x") == ["1", "2", "3"]
    assert texts(svg, "y") == ["0", "2", "4", "6", "8", "10"]


def test_a_wide_range_is_drawn_by_its_logarithm():
    svg = line_chart("rate", [Curve("a", 0, [(1, 1.0), (2, 0.1), (3, 0.01)])])
    (_, first), (_, second), (_, third) = places(svg)
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert texts(svg, "y") == ["0.01", "0.1", "1"]


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.0), (2, 0.0)], [(1, 1e-30), (2, 3e-30)], [(1, 1e30), (2, 1e30)],
                                    [(1, -3.0), (900, 1e9)]])
def test_what_hardly_changes_or_is_one_point_is_drawn(points):
    svg = line_chart("loss", [Curve("a", 0, points), Curve("b", 1, [])])
    assert all(0 <= x <= 340 and 0 <= y <= 200 for x, y in places(svg))
    assert texts(svg, "y")


def test_accuracies_stay_in_their_bounds_and_small_changes_small():
    svg = line_chart("accuracy", [Curve("a", 0, [(1, 99.5), (2, 100.0)])], least=5.0, bounds=(0.0, 100.0))
    assert texts(svg, "y") == ["97.5", "98", "98.5", "99", "99.5", "100"]


def test_names_are_escaped():
    svg = line_chart("<b>", [Curve("<script>", 0, [(1, 1.0)], marked=1)])
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert "&lt;script&gt;: 1" in svg
    assert 'class="best"' in svg
