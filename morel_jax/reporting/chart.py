"""Curves as SVG that takes its colours from the page: light, dark and printed."""
import dataclasses
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 32
# Beyond this, the values of a positive quantity are drawn on a logarithmic scale.
_DECADES = 1.5
_COLOURS = 9
# With more points a curve has no dots.
_DOTTED = 30


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: what it belongs to.
        number: of its colour and dashes, from 0.
        points: (x, y) in the order of x.
        marked: an x whose point is emphasised, or None.
    """
    name: str
    number: int
    points: Sequence[tuple[float, float]]
    marked: float | None = None


def colour_class(number: int) -> str:
    """The classes of a curve's colour and dashes, which the page's style defines."""
    return f"c{number % _COLOURS} d{number // _COLOURS % 3}"


def _steps(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most`` of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * (1 - 1e-9))
    return [step * place for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _text(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if 0 < abs(value) < 1e-3 or abs(value) >= 1e5 \
        else f"{value:.6g}"


def _y_scale(values: Sequence[float], least: float, bounds: tuple[float, float] | None) -> tuple[
        Callable[[float], float], float, float, list[float]]:
    """(scale, low, high, ticks): where ``scale`` is linear or a logarithm, and the others are in its units."""
    low, high = min(values), max(values)
    if low > 0 and math.log10(high / low) > _DECADES:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = math.ceil((last - first) / 5)
        return math.log10, math.log10(low) - 0.05, math.log10(high) + 0.05, [
            float(power) for power in range(first, last + 1, every)
            if math.log10(low) - 0.05 <= power <= math.log10(high) + 0.05]
    middle, half = (low + high) / 2, max((high - low) / 2, least / 2, abs(high) * 1e-3, 1e-12)
    low, high = middle - 1.08 * half, middle + 1.08 * half
    if bounds:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return float, low, high, _steps(low, high, 6)


def line_chart(title: str, curves: Sequence[Curve], x_label: str = "epoch", *, least: float = 0.0,
               bounds: tuple[float, float] | None = None, x_scale: Callable[[float], float] = float,
               x_ticks: Sequence[float] | None = None, x_mark: float | None = None) -> Markup:
    """A chart of curves.

    Args:
        title: for those who hear the page; the page writes it above.
        curves: at least one with a point.
        least: the least range of y that fills the chart.
        bounds: between which y lies.
        x_scale: a rising function of x that is drawn in its place.
        x_ticks: where x is labelled; None: at whole numbers.
        x_mark: where a dashed line is drawn.
    """
    xs = [x for curve in curves for x, _ in curve.points]
    scale, low, high, ticks = _y_scale([y for curve in curves for _, y in curve.points], least, bounds)
    left, right = x_scale(min(xs)), x_scale(max(xs))
    if x_ticks is None:
        x_ticks = [min(xs)] if left == right else [one for one in _steps(min(xs), max(xs), 6) if one == round(one)]
    if left == right:
        left, right = left - 1, right + 1

    def across(x: float) -> float:
        return _LEFT + (x_scale(x) - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def up(scaled: float) -> float:
        return _TOP + (high - scaled) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    floor = _HEIGHT - _BOTTOM
    parts = []
    for tick in ticks:
        shown = _text(10**tick if scale is math.log10 else tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                            '<text class="y" x="{}" y="{:.1f}">{}</text>').format(
            _LEFT, _WIDTH - _RIGHT, up(tick), up(tick), _LEFT - 5, up(tick) + 3.5, shown))
    for x in x_ticks:
        parts.append(Markup('<text class="x" x="{:.1f}" y="{}">{}</text>').format(across(x), floor + 14, _text(x)))
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="x label" x="{}" y="{}">{}'
                        '</text>').format(_LEFT, _WIDTH - _RIGHT, floor, floor, (_LEFT + _WIDTH - _RIGHT) / 2,
                                          _HEIGHT - 4, x_label))
    if x_mark is not None:
        parts.append(Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
            across(x_mark), _TOP, floor))
    for curve in curves:
        if curve.points:
            parts.append(_line(curve, [(across(x), up(scale(y))) for x, y in curve.points]))
    said = "; ".join(f"{curve.name} ends at {curve.points[-1][1]:.4g}" for curve in curves if curve.points)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}: {}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, said, Markup("").join(parts))


def _line(curve: Curve, places: Sequence[tuple[float, float]]) -> Markup:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            "best" if point[0] == curve.marked else "dot", x, y, 4 if point[0] == curve.marked else 2)
        for point, (x, y) in zip(curve.points, places, strict=True)
        if point[0] == curve.marked or len(places) <= _DOTTED)
    return Markup('<g class="curve run{} {}"><title>{}: {:.4g}</title><path d="{}"/>{}</g>').format(
        curve.number, colour_class(curve.number), curve.name, curve.points[-1][1], path, dots)
