import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.evaluation import symptoms
from morel_jax.evaluation.report_card import report_card
from morel_jax.evaluation.symptoms import FAIL, NAMES, NOT_JUDGED, PASS
from tests.evaluation import masked


def arguments(name):
    return masked.network(name), jax.random.key(0), *masked.images(name)


@functools.cache
def card(name, epsilon=masked.EPSILON, square=False):
    """The card of a masked network; Square, the slowest, on demand."""
    return report_card(*arguments(name), epsilon, batch_size=30, square_queries=300,
                       square_gain=None if square else (0, 1000))


def line(card, name):
    return card.lines[NAMES.index(name)]


def verdict_of(card):
    return {line.name: line.verdict for line in card.lines}


@pytest.mark.slow
def test_a_healthy_network_passes_every_line():
    found = card("healthy", square=True)
    assert verdict_of(found) == dict.fromkeys(NAMES, PASS)
    assert found.clean_accuracy == 1


def test_a_healthy_network_passes_every_line_in_l2():
    _, key, x, y = arguments("healthy")
    found = report_card(masked.NETWORK.logits, key, x, y, 0.32, "l2", batch_size=30, square_gain=(0, 1000))
    assert verdict_of(found) == dict.fromkeys(NAMES, PASS)
    assert found.epsilons[-1] == 8


@pytest.mark.parametrize(("name", "epsilon", "failing", "text"), [
    ("shattered", masked.EPSILON, "one_step_beats_iterative", "FGSM leaves 40.0 %, PGD-20 100.0 % (60 images"),
    ("deaf", masked.EPSILON, "largest_epsilon_at_chance", "leaves 100.0 % (chance is 20.0 %"),
    ("wavy", 0.0157, "monotone_in_epsilon", "fewer are broken at 0.126 than at 0.0"),
    ("wavy", 0.2, "more_effort_helps", "PGD-100 with 5 restarts"),
    ("quantised", 0.5, "gradients_usable", "vanished at 100.0 % of 120 points, images and random starts, the margin's "
                                           "at 100.0 %"),
    ("saturated", masked.EPSILON, "gradients_usable", "vanished at 100.0 % of 120 points, images and random starts, "
                                                      "the margin's at 0.0 %"),
    ("nan_gradient", masked.EPSILON, "gradients_usable", "NaN or infinite: 120 and 120"),
    ("random_when_compiled", masked.EPSILON, "deterministic", "averaged over draws"),
    ("probabilities", masked.EPSILON, "logits_not_probabilities", "sum to 1 .. 1"),
    ("backwards", masked.EPSILON, "loss_rises", "it rises for 0 of 60 images and falls for 60"),
    ("quantised", 0.5, "noise_breaks_less", "random noise of the same size breaks 60 of 60 images"),
])
def test_a_masked_network_fails_its_line(name, epsilon, failing, text):
    found = line(card(name, epsilon), failing)
    assert found.verdict == FAIL
    assert text in found.text


def test_square_finds_what_a_quantised_network_hides():
    found = line(card("quantised", square=True), "black_box_beats_white_box")
    assert found.verdict == FAIL
    assert found.text.startswith("APGD-CE leaves 100.0 %, Square after it ")
    assert found.figures["broken_by_square_alone"] >= symptoms.SQUARE_IMAGES


@pytest.mark.parametrize("name", ["probabilities", "random_when_compiled"])
def test_what_one_line_names_does_not_fail_the_others(name):
    verdicts_found = list(verdict_of(card(name)).values())
    assert verdicts_found.count(PASS) == len(NAMES) - 1


def test_a_network_that_would_be_frozen_by_compiling_is_seen_to_be_random():
    logits_fn, key, x, y = arguments("random")
    found = line(report_card(logits_fn, key, x, (y + 1) % 5, masked.EPSILON), "deterministic")
    assert found.verdict == FAIL
    assert "repeated passes differ by" in found.text
    assert "of 32 predictions; attack it with gradients averaged over draws (eot)" in found.text


@pytest.mark.parametrize(("name", "error"), [("not_differentiable", "ValueError"),
                                             ("not_traceable", "TracerArrayConversionError")])
def test_a_network_without_gradient_still_gets_a_card(name, error):
    found = report_card(*arguments(name), masked.EPSILON)
    assert error in line(found, "gradients_usable").text
    judged = {name: verdict for name, verdict in verdict_of(found).items() if verdict != NOT_JUDGED}
    assert judged == {"gradients_usable": FAIL, "deterministic": PASS, "logits_not_probabilities": PASS}
    assert error in line(found, "loss_rises").text
    assert found.clean_accuracy == 1
    assert found.epsilons == []


def test_too_few_images_are_not_judged():
    logits_fn, key, x, y = arguments("healthy")
    found = report_card(logits_fn, key, x[:9], np.where(np.arange(9) < 4, y[:9], (y[:9] + 1) % 5), masked.EPSILON)
    assert "4 of 9 images are classified right; 5 are needed" in line(found, "loss_rises").text
    assert set(verdict_of(found).values()) == {PASS, NOT_JUDGED}


def test_curves():
    found = card("healthy", square=True)
    assert found.epsilons[0] == 0
    assert found.epsilons[-1] == 1
    assert found.epsilon_accuracies[0] == 1
    assert found.epsilon_accuracies[-1] == 0
    assert masked.EPSILON in found.epsilons
    # A linear network's robust accuracy is known, and PGD reaches it.
    distances = masked.NETWORK.distances("linf")
    small = [epsilon for epsilon in found.epsilons if epsilon < 0.2]  # No pixel of the images reaches the box.
    np.testing.assert_allclose(found.epsilon_accuracies[:len(small)],
                               [np.mean(distances > epsilon) for epsilon in small], atol=1e-9)
    assert found.iterations == list(range(101))
    assert (np.diff(found.iteration_accuracies) <= 0).all()
    assert found.iteration_accuracies[-1] == found.epsilon_accuracies[found.epsilons.index(masked.EPSILON)]
    assert found.iteration_margins[-1] > found.iteration_margins[0]


def test_misclassified_images_count_as_broken():
    logits_fn, key, x, y = arguments("healthy")
    wrong = np.arange(len(y)) < 15
    found = report_card(logits_fn, key, x, np.where(wrong, (y + 1) % 5, y), masked.EPSILON, batch_size=30,
                        square_gain=(0, 1000))
    assert found.clean_accuracy == 0.75
    assert found.epsilon_accuracies[0] == 0.75
    expected = np.mean((masked.NETWORK.distances("linf") > masked.EPSILON) & ~wrong)
    np.testing.assert_allclose(line(found, "one_step_beats_iterative").figures["pgd_accuracy"], expected)


def test_json_and_markdown():
    found = card("healthy", square=True)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["name"] for one in again["lines"]] == list(NAMES)
    assert again["epsilon_accuracies"] == found.epsilon_accuracies
    lines = found.to_markdown().splitlines()
    assert len(lines) == len(NAMES)
    assert lines[0].startswith("- **pass** `one_step_beats_iterative`: FGSM leaves 40.0 %, PGD-20 40.0 % (60 images")


def test_programs_are_compiled_once_and_the_batch_changes_nothing():
    _, key, x, y = arguments("healthy")
    traces, calls = [], []

    def counted(x):
        traces.append(isinstance(x, jax.core.Tracer) and x.shape)
        return masked.NETWORK.logits(x)

    found = report_card(counted, key, x, y, masked.EPSILON, batch_size=16, square_gain=(0, 1000),
                        progress=lambda *call: calls.append(call))
    # Differentiability, clean logits, ascents, gradients and noise: whatever the radius, steps, restart and batch.
    assert [shape for shape in traces if shape] == [(16, 8, 8, 1)] * 5
    assert calls[:4] == [("pgd-20 at 0.01218", done, 60) for done in (16, 32, 48, 60)]
    assert calls[-1] == ("noise", 60, 60)
    whole = card("healthy")
    np.testing.assert_allclose(found.iteration_margins, whole.iteration_margins, rtol=1e-3)
    assert found.epsilon_accuracies == whole.epsilon_accuracies
    assert found.iteration_accuracies == whole.iteration_accuracies
    assert [one.figures for one in found.lines[:5]] == [one.figures for one in whole.lines[:5]]
    assert line(found, "noise_breaks_less") == line(whole, "noise_breaks_less")


def test_square_of_a_full_evaluation_is_taken_over():
    found = report_card(*arguments("not_traceable"), masked.EPSILON, square_gain=(30, 10_000))
    assert line(found, "black_box_beats_white_box").text == \
        "in the full evaluation: 0.3 points lost to Square (30 of 10000 images)"
    assert line(found, "black_box_beats_white_box").verdict == FAIL


def test_an_unjudged_line_says_why():
    assert all(len(found.text) > 10 for found in card("deaf").lines)
    assert line(card("deaf"), "noise_breaks_less").verdict == NOT_JUDGED
    assert "too few to tell them apart" in line(card("deaf"), "noise_breaks_less").text


@pytest.mark.parametrize(("changes", "message"), [
    (dict(x=np.zeros((0, 8, 8, 1), np.float32)), "x must hold at least one image; got none"),
    (dict(x=np.full((3, 8, 8, 1), 1.5, np.float32)), r"x must be in \[0, 1\]; got values from 1.5 to 1.5"),
    (dict(x=np.full((3, 8, 8, 1), np.nan, np.float32)), r"x must be in \[0, 1\]; got values from nan"),
    (dict(x=np.zeros((3, 8, 8, 1), np.uint8)), r"x must be floats in \[0, 1\]; got uint8; divide uint8 images by 255"),
    (dict(x=np.zeros((3, 64), np.float32)), r"x must have the shape \[n, height, width, channels\]; got \(3, 64\)"),
    (dict(y=np.array([0, 1, 5])), "y must be in 0 .. 4, the network's classes; got values from 0 to 5"),
    (dict(y=np.array([0, -1, 2])), "y must be in 0 .. 4, the network's classes; got values from -1 to 2"),
    (dict(y=np.array([0, 1])), r"y must have the shape \(3,\), one per image; got \(2,\)"),
    (dict(y=np.zeros(3)), r"y must be integers; got float64"),
    (dict(epsilon=0.0), r"epsilon must be in \[1e-06, 1\], the whole box; got 0.0"),
    (dict(epsilon=9.0, norm="l2"), r"epsilon must be in \[1e-06, 8\], the whole box; got 9.0"),
    (dict(norm="l1"), "norm must be one of linf, l2; got 'l1'"),
    (dict(batch_size=0), "batch_size must be at least 1; got 0"),
    (dict(batch_size=10.0), "batch_size must be an integer; got 10.0"),
    (dict(square_queries=True), "square_queries must be an integer; got True"),
    (dict(epsilon=np.nan), r"epsilon must be in \[1e-06, 1\], the whole box; got nan"),
    (dict(epsilon="0.1"), r"epsilon must be in \[1e-06, 1\], the whole box; got '0.1'"),
    (dict(key=0), r"key must be a key, such as jax.random.key\(0\); got 0"),
    (dict(x=np.full((3, 8, 8, 1), 1 + 1e-6, np.float32)),
     r"x must be in \[0, 1\]; got values from 1.00000095 to 1.00000095"),
    (dict(square_queries=0), "square_queries must be at least 1; got 0"),
    (dict(square_gain=(5, 4)), r"square_gain must be .* got \(5, 4\)"),
    (dict(logits_fn=lambda x: jnp.zeros((len(x), 1))),
     r"logits_fn must know at least two classes; got logits of shape \(3, 1"),
    (dict(logits_fn=lambda x: jnp.full((len(x), 5), jnp.nan)),
     "logits_fn must give finite logits on the clean images; .* 3 of 3"),
])
def test_errors(changes, message):
    logits_fn, key, x, y = arguments("healthy")
    given = dict(logits_fn=logits_fn, key=key, x=x[:3], y=y[:3], epsilon=0.1) | changes
    with pytest.raises(ValueError, match=message):
        report_card(**given)
