import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import APGD, FGSM
from morel_jax.attacks.keys import fold_in_each
from morel_jax.evaluation import evaluate, evaluate_union, with_noise
from morel_jax.evaluation.evaluator import Evaluator, as_argument
from morel_jax.evaluation.randomised import check_call, one_draw
from tests.attacks.linear import Linear
from tests.small import mostly_slow

MODEL = Linear(classes=4, count=20)
SIGMA, DRAWS = 0.15, 15
RADIUS = float(np.median(MODEL.distances("linf")))


def attacks():
    """One by name, and one of an evaluation's caller, short enough for a test."""
    return ["pgd4-eot3", ("apgd-short", APGD(RADIUS, 6, eot=3))]


def run(folder, names=None, network=None, **options):
    options = dict(epsilon=RADIUS, width=4, draws=DRAWS) | options
    labels = MODEL.y.copy()
    labels[::5] = (labels[::5] + 1) % 4
    return evaluate(network or with_noise(MODEL.logits, SIGMA), MODEL.x, labels, names or attacks(), folder, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def test_noise_is_on_the_images_and_of_the_size_asked_for():
    keys = fold_in_each(jax.random.key(0), np.arange(len(MODEL.x)))
    answers = with_noise(lambda x: x.reshape(len(x), -1), SIGMA)(MODEL.x, keys) - MODEL.x.reshape(len(MODEL.x), -1)
    assert np.std(answers) == pytest.approx(SIGMA, rel=0.1)
    alone = with_noise(lambda x: x.reshape(len(x), -1), SIGMA)(MODEL.x[3:5], keys[3:5])
    np.testing.assert_array_equal(alone - MODEL.x[3:5].reshape(2, -1), answers[3:5])


def test_the_majority_by_hand():
    """Three classes; the draws of each example are known, because its own keys say which class leads."""
    def network(x, keys):
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(keys)
        return 1e3 * jax.nn.one_hot(drawn, 3) + 0 * x.sum((1, 2, 3), keepdims=True)[:, :, 0, 0]

    key, index = jax.random.key(7), np.array([2, 11, 5, 11])
    evaluator = Evaluator(as_argument(network), MODEL.x, MODEL.y, 4, draws=9, key=key)
    expected = np.zeros((4, 3))
    for row, one in enumerate(index):
        for draw in range(9):
            drawn = jax.random.fold_in(jax.random.fold_in(key, int(one)), draw)
            expected[row, int(jax.random.randint(drawn, (), 0, 3))] += 1 / 9
    np.testing.assert_allclose(evaluator.logits(index), expected, rtol=1e-6)
    np.testing.assert_array_equal(evaluator.verdict(index)(np.ones_like(MODEL.x[:4])), evaluator.logits(index))


def test_a_draw_that_is_not_finite_is_never_right():
    def network(x, keys):
        low = jax.vmap(lambda key: jax.random.bernoulli(key, 0.3))(keys)
        return MODEL.logits(x) + jnp.where(low, jnp.nan, 0)[:, None]

    with pytest.raises(ValueError, match="must give finite logits on the clean images; got NaN or infinity on"):
        run("nowhere", network=network)


def test_the_mean_gradient_of_a_linear_network_with_noise():
    """Noise of mean 0 leaves a linear network's margin gradient as it is: the known corner of the ball is reached."""
    model = Linear(classes=2, count=12)
    towards = np.sign(model.weights[:, 1 - model.y] - model.weights[:, model.y]).T.reshape(model.x.shape)
    x_adv = FGSM(0.1, eot=8)(with_noise(model.logits, 0.05), jax.random.key(0), model.x, model.y)
    np.testing.assert_allclose(x_adv, model.x + 0.1 * towards, atol=1e-6)


def test_the_verdict_is_by_majority_of_fresh_noise(whole):
    """Of a linear network with Gaussian noise the probability of each answer is known for two classes."""
    model = Linear(classes=2, count=40)
    apart = model.weights[:, 0] - model.weights[:, 1]
    margin = np.abs(np.diff(model.logits(model.x)))[:, 0]
    probability = np.array([0.5 * math.erfc(-m / (SIGMA * np.linalg.norm(apart) * math.sqrt(2))) for m in margin])
    evaluator = Evaluator(as_argument(with_noise(model.logits, SIGMA)), model.x, model.y, 8, 400, jax.random.key(0))
    shares = evaluator.logits(np.arange(40))[np.arange(40), model.y]
    np.testing.assert_allclose(shares, probability, atol=0.1)
    _, summary = whole
    assert summary["settings"]["draws"] == DRAWS
    assert 0 < summary["attacks"]["apgd-short"]["correct"] < summary["clean"]["correct"] == 16


@pytest.mark.parametrize("batch_size", mostly_slow([1, 7], 7))
def test_results_do_not_depend_on_the_batch_size(whole, tmp_path, batch_size):
    run(tmp_path, batch_size=batch_size)
    assert files(tmp_path) == files(whole[0])


def test_a_part_is_resumed_to_the_same_files(whole, tmp_path):
    run(tmp_path, examples=6)
    run(tmp_path, attacks()[:1])
    run(tmp_path)
    assert files(tmp_path) == files(whole[0])


@pytest.mark.parametrize(("options", "message"), [
    (dict(draws=16), "draws: 15 there, 16 now"),
    (dict(network=with_noise(MODEL.logits, 0.2)), "network: "),
    (dict(draws=0, network=MODEL.logits, names=["fgsm"]), "draws: 15 there, None now"),
])
def test_another_randomness_is_another_evaluation(whole, options, message):
    with pytest.raises(ValueError, match=message):
        run(whole[0], **options)


@pytest.mark.parametrize(("options", "message"), [
    (dict(names=["pgd20"]), "attack pgd20, on 4 classes: it asks the network once .*autoattack-rand"),
    (dict(names=["autoattack"]), "attack apgd-ce, on 4 classes: it asks the network once"),
    (dict(names=["hopskipjump"]), "attack hopskipjump, on 4 classes: it asks the network once"),
    (dict(names=["transfer-pgd2-eot2"], surrogate=MODEL.logits), "attack transfer-pgd2-eot2, .* use it without -eot"),
    (dict(draws=0, network=MODEL.logits), "attack pgd4-eot3, on 4 classes: it averages over draws"),
    (dict(draws=0), "draws must be at least 1 for a network that takes keys, whose answers are random; got 0"),
    (dict(network=MODEL.logits), r"draws must be 0 for a network that takes \(x\); .* takes \(x, keys\), .* got 15"),
    (dict(network=lambda x, keys: MODEL.logits(x)), "draws must be 0 for a network that answers the same each time"),
    (dict(network=with_noise(MODEL.logits, 1e39)), "logits_fn must give finite logits on the clean images; got NaN"),
    (dict(draws=1.5), "draws must be an integer; got 1.5"),
    (dict(draws=-1), "draws must be at least 0; got -1"),
    (dict(names=["apgd-loss-eot3"]), "climb a loss of your own, --loss .*; got none"),
    (dict(loss="hinge"), "loss must be a function of logits and labels; got 'hinge'"),
    (dict(names=["apgd-loss-eot3"], loss=lambda logits, labels: logits.max()),
     r"attack apgd-loss-eot3, .*loss must return floats of shape \[1\], one value per example; got float32\[\]"),
])
def test_what_does_not_fit_is_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path / "none", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_sigma_is_a_positive_number():
    with pytest.raises(ValueError, match=r"sigma must be in .*; got 0"):
        with_noise(MODEL.logits, 0)


def test_networks_of_every_form_can_be_asked():
    check_call(MODEL.logits, MODEL.x, 0)
    check_call(jax.jit(MODEL.logits), MODEL.x, 0)
    check_call(lambda *arguments: MODEL.logits(arguments[0]), MODEL.x, 0)
    check_call(lambda x, keys=None: MODEL.logits(x), MODEL.x, 0)
    check_call(jax.jit(with_noise(MODEL.logits, SIGMA)), (255 * MODEL.x).astype(np.uint8), 2)


def test_an_error_inside_the_network_stays_as_it_is():
    def broken(x, keys):
        raise TypeError("of the network's own")

    with pytest.raises(TypeError, match="of the network's own"):
        check_call(broken, MODEL.x, 3)


def test_transfer_needs_no_draws(tmp_path):
    summary = run(tmp_path, ["transfer-fgsm"], surrogate=MODEL.logits)
    assert summary["attacks"]["transfer-fgsm"]["correct"] < summary["clean"]["correct"]


def test_one_draw_is_named_as_the_network_itself():
    noisy = with_noise(MODEL.logits, SIGMA)
    assert repr(one_draw(noisy).func) == repr(as_argument(noisy).func)
    np.testing.assert_array_equal(one_draw(noisy)(MODEL.x), one_draw(noisy)(MODEL.x))


def margin_loss(logits, labels):
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.where(jnp.arange(logits.shape[1]) == labels[:, None], -jnp.inf, logits).max(1) - own


def test_an_own_loss_is_climbed_and_recognised(tmp_path):
    """It may come later than other attacks, but not be replaced by another function."""
    names = ["pgd4-loss"]
    options = dict(network=MODEL.logits, draws=0, step_size=RADIUS / 2)
    run(tmp_path, ["fgsm"], **options)
    summary = run(tmp_path, names, loss=margin_loss, **options)
    assert all(0 < summary["attacks"][name]["correct"] < summary["clean"]["correct"] for name in names)
    assert json.loads((tmp_path / "settings.json").read_text())["loss"] == "<function margin_loss>"
    run(tmp_path, ["fgsm"], **options)
    with pytest.raises(ValueError, match="loss_answers"):
        run(tmp_path, names, loss=lambda logits, labels: 2 * margin_loss(logits, labels), **options)
    run(tmp_path, names, loss=margin_loss, **options)


@pytest.mark.slow
def test_a_union_of_norms_knows_draws_and_loss(tmp_path):
    union = evaluate_union(with_noise(MODEL.logits, SIGMA), MODEL.x, MODEL.y, ["pgd2-loss-eot2"], tmp_path, width=4,
                           epsilons={"linf": RADIUS, "l2": 3 * RADIUS}, draws=DRAWS, loss=margin_loss)
    assert union["union"]["correct"] <= min(entry["correct"] for entry in union["norms"].values())
    settings = json.loads((tmp_path / "l2" / "settings.json").read_text())
    assert (settings["draws"], settings["loss"]) == (DRAWS, "<function margin_loss>")
