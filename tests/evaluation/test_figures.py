from types import SimpleNamespace

import numpy as np
import pytest

from morel_jax.evaluation import figures


def test_adversarial_examples_are_told_from_predictions():
    figure = figures.new_figure(4, 4)
    images = np.zeros((2, 4, 4, 1))
    x_adv = images + 0.1
    figures.adversarial_examples(figure, images, np.array([0, 1]), {"net": (x_adv, np.array([0, 2]))}, 0.1,
                                 ("cat", "dog", "fish"))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["cat", "dog", "", "", "cat", "fish"]
    colours = [axis.title.get_color() for axis in figure.axes[-2:]]
    assert colours[0] != colours[1]
    # A perturbation of epsilon is white.
    assert figure.axes[2].images[0].get_array().min() == 1


def test_a_figure_is_written_whole_and_always_the_same(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        figure = figures.new_figure(2, 2)
        figure.subplots().plot([1, 2])
        figures.save(figure, tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "b.png").read_bytes()
    monkeypatch.setattr(figure, "savefig", lambda file, **options: file.write(content[:9]) and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        figures.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == content


def test_colour_images_are_drawn_in_colour():
    figure = figures.new_figure(4, 4)
    images = np.random.default_rng(0).random((1, 4, 4, 3))
    figures.adversarial_examples(figure, images, np.array([0]), {}, 0.1, ("cat",))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0])


def test_curves_show_judged_epochs_in_percent():
    figure = figures.new_figure(6, 2)
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "clean_accuracy": 0.5, "robust_accuracy": 0.25}]
    figures.training_curves(figure, {"run": history})
    loss, clean, robust = (axis.lines[0].get_xydata().tolist() for axis in figure.axes)
    assert loss == [[1, 2.0], [2, 1.0]]
    assert clean == [[2, 50.0]]
    assert robust == [[2, 25.0]]


def test_robustness_curves_mark_the_radius():
    card = SimpleNamespace(norm="linf", epsilon=0.1, epsilons=[0, 0.05, 0.1, 1.0],
                           epsilon_accuracies=[0.8, 0.7, 0.5, 0.0],
                           iterations=[0, 1, 2], iteration_accuracies=[0.8, 0.6, 0.5], iteration_margins=[-2, -1, 0.5])
    figure = figures.new_figure(9, 3)
    figures.robustness_curves(figure, card)
    by_radius, by_step, margin = figure.axes
    np.testing.assert_allclose(by_radius.lines[0].get_ydata(), [80, 70, 50, 0])
    assert by_radius.lines[1].get_xdata()[0] == 0.1
    np.testing.assert_allclose(by_step.lines[0].get_ydata(), [80, 60, 50])
    np.testing.assert_allclose(margin.lines[0].get_ydata(), [-2, -1, 0.5])


def test_the_heat_map_has_every_corruption_and_severity():
    result = {"mce": 0.25, "corruptions": {"fog": {"accuracies": [0.9, 0.8, 0.7, 0.6, 0.5]},
                                           "motion_blur": {"accuracies": [1, 1, 1, 1, 0]}}}
    figure = figures.new_figure(5, 2)
    figures.corruption_heat_map(figure, result)
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.images[0].get_array(), [[90, 80, 70, 60, 50], [100, 100, 100, 100, 0]])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["fog", "motion blur"]
    assert [text.get_text() for text in axis.texts][:2] == ["90.0", "80.0"]
    assert "25.00 %" in axis.get_title()


def test_distances_are_steps_from_the_clean_accuracy_on():
    curve = {"median": 0.1, "radii": [0.0, 0.1, 0.3], "accuracies": [0.8, 0.4, 0.0]}
    accuracy = {"accuracy": 0.5}
    summary = {"settings": {"epsilon": 0.2, "norm": "linf"}, "curve": curve,
               "attacks": {"fmn": {"curve": curve} | accuracy, "ddn": {"curve": curve} | accuracy, "fgsm": accuracy}}
    figure = figures.new_figure(3, 3)
    figures.distance_curves(figure, summary)
    axis, = figure.axes
    fmn, *_, fgsm, at = axis.lines
    np.testing.assert_allclose(fmn.get_xydata(), [[0, 80], [0.1, 40], [0.3, 0], [0.4, 0]], rtol=1e-6)
    assert fmn.get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(fgsm.get_xydata(), [[0.2, 50]])
    assert [line.get_label() for line in axis.lines] == ["fmn", "ddn", "nearest of all", "fgsm", "evaluated at 0.2"]
    assert at.get_xdata() == [0.2, 0.2]
