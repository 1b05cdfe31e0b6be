import json
import os
import random
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import HopSkipJump, autoattack
from morel_jax.data.subset import stratified_order
from morel_jax.evaluation import evaluate
from morel_jax.files import DamagedFileError
from morel_jax.models import Outputs
from tests.attacks.linear import Linear
from tests.evaluation import masked
from tests.evaluation.network import EPSILON, data, network
from tests.evaluation.run_evaluation import run
from tests.small import mostly_slow

QUICK = "fgsm,pgd20,cw,apgd-ce,transfer-fgsm"
KILLS = 10


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_another_process(folder, attacks, examples, *arguments, **environment):
    command = [sys.executable, "-m", "tests.evaluation.run_evaluation", str(folder), attacks, str(examples),
               *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)


def quick(folder, attacks=QUICK, **options):
    logits_fn = network()
    images, labels = data(logits_fn, 20)
    # Narrow blocks: a batch of one is worked on in a whole one.
    options = dict(epsilon=EPSILON, surrogate=network(seed=1), width=4) | options
    return evaluate(logits_fn, images, labels, attacks.split(","), folder, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, quick(folder)


def test_summary_and_ledger_agree_with_the_network(whole):
    folder, summary = whole
    logits_fn = network()
    _, labels = data(logits_fn, 20)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["clean"]["correct"] == 16  # Every fifth label is wrong.
    rows = [line.split(",") for line in (folder / "ledger.csv").read_text().splitlines()]
    assert rows[0] == ["attack", "index", "label", "clean_prediction", "broken", "prediction", "distance", "steps",
                       "uint8_broken", "violation", "check"]
    assert len(rows) == 1 + 5 * 20
    for attack in QUICK.split(","):
        own = [row for row in rows if row[0] == attack]
        assert [int(row[1]) for row in own] == list(range(20))
        assert [int(row[2]) for row in own] == labels.tolist()
        assert sum(row[4] == "0" for row in own) == summary["attacks"][attack]["correct"]
        assert all(row[9] == "" for row in own)
        assert all(float(row[6]) <= EPSILON + 2e-6 for row in own)
    assert summary["attacks"]["apgd-ce"]["correct"] <= summary["attacks"]["pgd20"]["correct"] + 1
    assert summary["worst_case"]["correct"] <= min(
        summary["attacks"][name]["correct"] for name in ("fgsm", "pgd20", "cw", "apgd-ce"))


@pytest.mark.parametrize("batch_size", mostly_slow([1, 7, 64], 7))
def test_the_ledger_does_not_depend_on_the_batch_size(whole, tmp_path, batch_size):
    quick(tmp_path, batch_size=batch_size)
    assert files(tmp_path) == files(whole[0])


def test_examples_and_attacks_can_be_added(whole, tmp_path):
    logits_fn = network()
    images, labels = data(logits_fn, 20)
    evaluate(logits_fn, images, labels, ["pgd20"], tmp_path, epsilon=EPSILON, examples=7, width=4)
    assert len((tmp_path / "ledger.csv").read_text().splitlines()) == 8
    quick(tmp_path)
    assert (tmp_path / "ledger.csv").read_bytes() == (whole[0] / "ledger.csv").read_bytes()


def test_rows_that_are_there_are_not_made_again(tmp_path):
    quick(tmp_path, "fgsm,transfer-fgsm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("morel_jax.evaluation.protocol.Pool.run", lambda *_: pytest.fail("attacked again"))
        quick(tmp_path, "fgsm,transfer-fgsm")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-8])])
def test_a_finished_evaluation_notices_that_its_images_were_damaged(tmp_path, damage):
    quick(tmp_path, "pgd20", save_images=True)
    before = files(tmp_path)
    quick(tmp_path, "pgd20", save_images=True)
    assert files(tmp_path) == before
    damage(tmp_path / "adversarial" / "pgd20.npy")
    damaged = files(tmp_path)
    with pytest.raises(DamagedFileError, match=r"adversarial/pgd20.npy .*Put back a copy of it, or move"):
        quick(tmp_path, "pgd20", save_images=True)
    assert files(tmp_path) == damaged
    quick(tmp_path, "pgd20")  # The images are no part of its accuracies.


def test_another_seed_or_network_is_another_evaluation(tmp_path):
    quick(tmp_path, "fgsm")
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        quick(tmp_path, "fgsm", seed=1)
    logits_fn = network(seed=2)
    images, labels = data(network(), 20)
    with pytest.raises(ValueError, match="network: "):
        evaluate(logits_fn, images, labels, ["fgsm"], tmp_path, epsilon=EPSILON)


def test_an_ensembles_members_see_what_is_left(tmp_path):
    model = Linear(count=30)
    epsilon = float(np.median(model.distances("linf")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(autoattack.VERSIONS, "standard", ("apgd-ce", "apgd-t"))
        summary = evaluate(model.logits, model.x, model.y, ["autoattack"], tmp_path, epsilon=epsilon)
    rows = [line.split(",") for line in (tmp_path / "ledger.csv").read_text().splitlines()[1:]]
    first = {row[1] for row in rows if row[0] == "apgd-ce" and row[4] == "0"}
    assert {row[1] for row in rows if row[0] == "apgd-t"} == first
    assert summary["attacks"]["autoattack"]["correct"] == int(np.sum(model.distances("linf") > epsilon))


@pytest.mark.slow
def test_eight_devices_give_the_ledger_of_one(tmp_path):
    attacks = "apgd-ce,fab-t,square,cw"
    one, eight = (in_another_process(tmp_path / str(count), attacks, 12, 64, JAX_NUM_CPU_DEVICES=str(count),
                                     JAX_COMPILATION_CACHE_DIR="") for count in (1, 8))
    assert one.wait() == 0
    assert eight.wait() == 0
    assert files(tmp_path / "1") == files(tmp_path / "8")


@pytest.mark.slow
def test_killed_ten_times_ends_with_the_same_files(tmp_path):
    """kill -9 at random moments: while compiling, attacking, writing the ledger or the images."""
    moment = random.Random(0)
    attacks, examples = "pgd20,apgd-ce,fab-t,apgd-t,square", 40
    cache = dict(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "compiled"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert in_another_process(tmp_path / "unbroken", attacks, examples, **cache).wait() == 0
    ledger, early, lengths = tmp_path / "broken" / "ledger.csv", 0, []
    for _ in range(KILLS):
        process = in_another_process(tmp_path / "broken", attacks, examples, **cache)
        before, deadline = _size(ledger), time.monotonic() + 60
        while _size(ledger) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moment.uniform(0, 0.3))
        early += process.poll() is not None
        process.kill()
        process.wait()
        lengths.append(_size(ledger))
    assert early == 0, lengths
    run(tmp_path / "broken", attacks, examples)
    assert files(tmp_path / "broken") == files(tmp_path / "unbroken")


def _size(path):
    return path.stat().st_size if path.exists() else 0


MODEL, LARGER = Linear(count=4), Linear(count=30)


@pytest.mark.parametrize(("change", "message"), [
    (dict(labels=np.array([0, 1, 2, 9])), r"labels must be in 0 .. 4, the network's classes; got values from 0 to 9"),
    (dict(labels=np.array([0, 1, 2, -1])), "got values from -1 to 2"),
    (dict(labels=np.zeros(3, int)), r"labels must have the shape \(4,\), one per image; got \(3,\)"),
    (dict(labels=np.zeros(4)), "labels must be integers; got float64"),
    (dict(labels=np.eye(4, 5, dtype=int)), r"one per image; got \(4, 5\)\. .*one-hot rows.* by labels.argmax\(-1\)"),
    (dict(labels=MODEL.y[:, None]), r"got \(4, 1\)\. Give labels\[:, 0\]"),
    (dict(images=np.where(MODEL.x == MODEL.x.max(), np.float32(1 + 1e-6), MODEL.x)),
     r"images must be in \[0, 1\]; got values from 0.3\d* to 1.00000095"),
    (dict(logits_fn=lambda x: Outputs(x, MODEL.logits(x))),
     r"logits_fn must return one array of logits; got Outputs; return its logits alone"),
    (dict(logits_fn=lambda x: MODEL.logits(x).astype(int)),
     r"logits_fn must return floats of shape \[1, classes\]; got int32\[1, 5\]"),
    (dict(logits_fn=lambda x: jnp.where(x[:, :1, 0, 0] == MODEL.x[2, 0, 0, 0], np.nan, 1) * MODEL.logits(x)),
     "must give finite logits on the clean images; got NaN or infinity on 1 of 4 images, the first of them image 2"),
    (dict(logits_fn=lambda x: jnp.full((len(x), 10), jnp.nan)), "infinity on 4 of 4 images, the first of them image 0"),
    (dict(images=MODEL.x * 255), r"images must be in \[0, 1\]; got values from"),
    (dict(images=MODEL.x * np.nan), r"images must be in \[0, 1\]; got values from nan"),
    (dict(images=MODEL.x[0]), r"images must have the shape \[n, height, width, channels\]; got \(4, 4, 2\)"),
    (dict(images=MODEL.x.astype(np.int32)), r"images must be uint8 or floats in \[0, 1\]; got int32"),
    (dict(images=MODEL.x[:0], labels=np.zeros(0, int)), "images must hold at least one image; got none"),
    (dict(logits_fn=lambda x: x), r"logits_fn must return floats of shape \[1, classes\]; got float32\[1, 4, 4, 2\]"),
    (dict(attacks=["bim"]), "attacks must be among"),
    (dict(attacks=["transfer"]), "transfer attacks need a surrogate"),
    (dict(attacks=["transfer"], surrogate=[]), "transfer attacks need a surrogate"),
    (dict(attacks=["transfer"], surrogate=[MODEL.logits, lambda x: MODEL.logits(x)[:, :3]]),
     "surrogates must have the same classes; got networks with 5, 3"),
    (dict(attacks=["transfer"], surrogate=lambda x: MODEL.logits(x)[:, :3]),
     "the surrogate must have the network's 5 classes; got one with 3"),
    (dict(attacks=["transfer"], surrogate=lambda x: MODEL.logits(x) * np.nan),
     "surrogate must give finite logits on the clean images; got NaN or infinity on 4 of 4"),
    (dict(examples=5), r"examples must be in 0 .. 4; got 5"),
    (dict(epsilon=0.0), r"epsilon must be in \[1e-06, 1\], the whole box in linf; got 0.0"),
    (dict(norm="l1"), "norm"),
    (dict(batch_size=0), "batch_size must be at least 1; got 0"),
    (dict(batch_size=2.0), r"batch_size must be an integer; got 2.0"),
    (dict(width=0), "width must be at least 1; got 0"),
    (dict(width=True), "width must be an integer; got True"),
    (dict(examples=-1), r"examples must be in 0 .. 4; got -1"),
    (dict(examples=1.0), r"examples must be an integer; got 1.0"),
    (dict(seed=2**32), r"seed must be in 0 .. 4294967295; got 4294967296"),
    (dict(seed=-1), r"seed must be in 0 .. 4294967295; got -1"),
    (dict(seed=0.5), r"seed must be an integer; got 0.5"),
    (dict(epsilon=np.nan), r"epsilon must be in \[1e-06, 1\], the whole box in linf; got nan"),
    (dict(epsilon=100), r"epsilon must be in \[1e-06, 1\], the whole box in linf; got 100"),
    (dict(epsilon=1e-50), r"epsilon must be in \[1e-06, 1\], the whole box in linf; got 1e-50"),
    (dict(epsilon="0.1"), r"epsilon must be in \[1e-06, 1\], the whole box in linf; got '0.1'"),
    (dict(epsilon=5.7, norm="l2"), r"epsilon must be in \[1e-06, 5.657\], the whole box in l2; got 5.7"),
    (dict(step_size=0), r"step_size must be in \[1e-06, 1\], the whole box in linf; got 0"),
    (dict(step_size=np.nan), r"step_size must be in \[1e-06, 1\].*; got nan"),
    (dict(step_size=-0.01), r"step_size must be in \[1e-06, 1\].*; got -0.01"),
    (dict(variant="papers"), "variant must be one of paper, reference; got 'papers'"),
    (dict(folder=""), "folder must name a path; got an empty string"),
    (dict(folder="gs://a/b"), "folder must be a path on a mounted file system, not a URL"),
    (dict(logits_fn=lambda x: MODEL.logits(x)[:, :3], labels=np.array([0, 1, 2, 0]), attacks=["pgd20", "autoattack"]),
     "attack apgd-t needs a network with at least 4 classes; got 3"),
])
def test_bad_input_is_one_clear_error(tmp_path, change, message):
    arguments = dict(logits_fn=MODEL.logits, images=MODEL.x, labels=MODEL.y, attacks=["fgsm"], folder=tmp_path / "e",
                     epsilon=0.1) | change
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)
    assert not (tmp_path / "e").exists()


def test_arrays_of_jax_and_half_precision_are_taken(tmp_path):
    x, plain = jnp.asarray(MODEL.x, jnp.bfloat16), MODEL.x.astype(jnp.bfloat16).astype(np.float32)
    one = evaluate(MODEL.logits, x, jnp.asarray(MODEL.y), ["fgsm"], tmp_path / "a", epsilon=jnp.float32(0.25),
                   seed=np.int64(2**32 - 1))
    other = evaluate(MODEL.logits, plain, MODEL.y, ["fgsm"], tmp_path / "b", epsilon=0.25, seed=2**32 - 1)
    assert one["attacks"] == other["attacks"]


def test_some_examples_have_the_classes_in_proportion(tmp_path):
    """Whatever the data set's order; and a later call with more of them goes on."""
    order = np.argsort(LARGER.y, kind="stable")
    x, y = LARGER.x[order], LARGER.y[order]
    arguments = dict(logits_fn=LARGER.logits, images=x, labels=y, attacks=["pgd1x2"], epsilon=0.02)
    found = evaluate(**arguments, folder=tmp_path / "a", examples=10)
    assert found["examples"] == 10
    rows = (tmp_path / "a" / "ledger.csv").read_text().splitlines()[1:]
    index = [int(row.split(",")[1]) for row in rows]
    assert index == np.sort(stratified_order(y)[:10]).tolist()
    assert np.all(np.abs(np.bincount(y[index], minlength=5) - 10 * np.bincount(y, minlength=5) / len(y)) < 1)
    evaluate(**arguments, folder=tmp_path / "a", examples=20)
    grown = (tmp_path / "a" / "ledger.csv").read_text().splitlines()
    assert set(rows) < set(grown)
    evaluate(**arguments, folder=tmp_path / "b", examples=20)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.slow
def test_double_precision_enabled_changes_no_result(tmp_path):
    """JAX_ENABLE_X64=1 is some users' default; arrays without a type are then float64 and int64."""
    attacks = ["fgsm", "pgd2x2", "cw"]
    script = ("import sys; from morel_jax.evaluation import evaluate; from tests.attacks.linear import Linear; "
              "model = Linear(count=4); "
              "evaluate(model.logits, model.x, model.y, sys.argv[2:], sys.argv[1], epsilon=0.05)")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a"), *attacks], check=True,
                   env=os.environ | {"JAX_ENABLE_X64": "1"})
    evaluate(MODEL.logits, MODEL.x, MODEL.y, attacks, tmp_path / "b", epsilon=0.05)
    one, other = ([row.split(",")[:6] for row in (tmp_path / name / "ledger.csv").read_text().splitlines()]
                  for name in "ab")
    assert one == other


def test_a_changed_row_does_not_count(tmp_path):
    arguments = dict(logits_fn=MODEL.logits, images=MODEL.x, labels=MODEL.y, attacks=["fgsm"], folder=tmp_path)
    evaluate(**arguments, epsilon=0.1)
    path = tmp_path / "ledger.csv"
    before = path.read_text()
    assert ",1,4," in before
    path.write_text(before.replace(",1,4,", ",0,4,", 1))
    with pytest.raises(DamagedFileError, match=r"ledger.csv, line \d \(attack 'fgsm', image '\d'\) is not as it was"):
        evaluate(**arguments, epsilon=0.1)
    path.write_text(before)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DamagedFileError, match="has rows, but no settings"):
        evaluate(**arguments, epsilon=0.2)


def test_the_same_weights_under_another_function_are_another_network(tmp_path):
    def plain(weights, x):
        return x.reshape(len(x), -1) @ weights

    def normalised(weights, x):
        return plain(weights, (x - 0.5) / 0.25)

    first, second = (jax.tree_util.Partial(one, MODEL.weights) for one in (plain, normalised))
    y = np.argmax(first(MODEL.x), -1)
    evaluate(first, MODEL.x, y, ["fgsm"], tmp_path, epsilon=0.1, surrogate=first)
    with pytest.raises(ValueError, match="network: "):
        evaluate(second, MODEL.x, y, ["fgsm"], tmp_path, epsilon=0.1, surrogate=first)
    with pytest.raises(ValueError, match="surrogate: "):
        evaluate(first, MODEL.x, y, ["fgsm"], tmp_path, epsilon=0.1, surrogate=second)


def test_logits_that_an_attack_makes_infinite_count_as_broken_and_are_named(tmp_path):
    def logits_fn(x):
        # Finite on the images, within 0.3 .. 0.7, alone.
        return MODEL.logits(x) + jnp.where(jnp.max(jnp.abs(x - 0.5), (1, 2, 3)) > 0.35, jnp.nan, 0)[:, None]

    entry = evaluate(logits_fn, MODEL.x, MODEL.y, ["fgsm"], tmp_path, epsilon=0.3)["attacks"]["fgsm"]
    assert entry["correct"] == 0
    assert entry["non_finite"] == 4
    assert all(row.split(",")[4:6] == ["1", "-1"] for row in (tmp_path / "ledger.csv").read_text().splitlines()[1:])


def test_plain_functions_are_told_apart_by_what_they_answer(tmp_path):
    evaluate(MODEL.logits, MODEL.x, MODEL.y, ["fgsm"], tmp_path, epsilon=0.1)
    other = Linear(count=4, seed=1)
    with pytest.raises(ValueError, match=r"network_answers: \[-2.67\d*, …\] there, \[12.3\d*, …\] now"):
        evaluate(other.logits, MODEL.x, MODEL.y, ["fgsm"], tmp_path, epsilon=0.1)


def test_keys_depend_on_the_attacks_name_and_the_seed(tmp_path):
    model = Linear(count=8)
    x_adv = {}
    for seed in (0, 1):
        evaluate(model.logits, model.x, model.y, ["pgd1x2", "pgd2x2"], tmp_path / str(seed), epsilon=1e-3, seed=seed,
                 save_images=True)
        x_adv[seed] = [np.load(tmp_path / str(seed) / f"adversarial/{name}.npy") for name in ("pgd1x2", "pgd2x2")]
    assert not np.array_equal(x_adv[0][0], x_adv[1][0])
    assert not np.array_equal(x_adv[0][0], x_adv[0][1])


def test_transfer_from_several_networks_is_crafted_on_their_mean(tmp_path):
    """Two networks whose sum is the attacked one: FGSM on the mean is FGSM on it."""
    half = jax.tree_util.Partial(lambda weights, x: x.reshape(len(x), -1) @ weights, MODEL.weights / 2)
    skewed = np.random.default_rng(0).normal(size=MODEL.weights.shape).astype(np.float32)
    parts = [jax.tree_util.Partial(half.func, weights) for weights in (MODEL.weights + skewed, MODEL.weights - skewed)]
    y = np.argmax(half(MODEL.x), -1)
    summary = evaluate(half, MODEL.x, y, ["fgsm", "transfer-fgsm"], tmp_path, epsilon=0.1, surrogate=parts)
    own, transferred = (summary["attacks"][name]["correct"] for name in ("fgsm", "transfer-fgsm"))
    assert own == transferred < len(y)


@pytest.mark.slow
def test_a_network_without_a_gradient_is_judged_by_its_answers(tmp_path):
    """HopSkipJump breaks within the radius what the known distances allow, on a network that JAX only calls."""
    x, y = masked.images("not_differentiable")
    epsilon = 1.3 * float(np.median(masked.NETWORK.distances("linf")[:12]))
    network = masked.network("not_differentiable")
    summary = evaluate(network, x[:12], y[:12], [("asked", HopSkipJump(epsilon, 1500))], tmp_path, epsilon=epsilon)
    within = masked.NETWORK.distances("linf")[:12] < epsilon
    assert 12 - summary["attacks"]["asked"]["correct"] >= within.sum() - 2 > 4
    with pytest.raises(ValueError, match="callback"):
        evaluate(network, x[:12], y[:12], ["fgsm"], tmp_path, epsilon=epsilon)
