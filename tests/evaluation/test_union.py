import json

import numpy as np
import pytest

from morel_jax.evaluation import evaluate_union
from morel_jax.evaluation.union import union_to_markdown
from tests.attacks.linear import Linear

MODEL = Linear(count=60)
MODEL.weights[:, :2] **= 5  # Two classes of few large weights: what is near in one norm is far in the other.
MODEL.weights /= np.linalg.norm(MODEL.weights, axis=0)
MODEL.bias = -0.5 * MODEL.weights.sum(0)
MODEL.y = np.argmax(MODEL.logits(MODEL.x), axis=-1).astype(np.int32)
# Radii between the distances of the boundary, which are known.
RADII = {norm: float(np.sort(MODEL.distances(norm))[[20, 21]].mean()) for norm in ("linf", "l2")}


@pytest.fixture(scope="module")
def union(tmp_path_factory):
    folder = tmp_path_factory.mktemp("union")
    return folder, evaluate_union(MODEL.logits, MODEL.x, MODEL.y, ["apgd-ce", "apgd-t"], folder, epsilons=RADII)


def test_an_image_is_robust_where_it_is_in_every_ball(union):
    folder, result = union
    robust = {norm: MODEL.distances(norm) > radius for norm, radius in RADII.items()}
    assert robust["linf"].sum() == robust["l2"].sum() == 39
    assert 0 < np.sum(robust["linf"] & robust["l2"]) < 39  # The two norms disagree about some.
    assert {norm: entry["correct"] for norm, entry in result["norms"].items()} == {"linf": 39, "l2": 39}
    assert result["union"]["correct"] == np.sum(robust["linf"] & robust["l2"])
    assert result["clean"]["correct"] == result["examples"] == 60
    assert json.loads((folder / "union.json").read_text()) == result
    assert json.loads((folder / "l2" / "summary.json").read_text())["worst_case"]["correct"] == 39


def test_its_table(union):
    text = union_to_markdown(union[1], "a network")
    share = f"{100 * union[1]['union']['accuracy']:.2f}"
    (line,) = (line for line in text.splitlines() if "worst case over linf and l2" in line)
    assert share in line
    assert f"worst case in l2, epsilon {RADII['l2']:.5g}" in text


def test_it_is_resumed(union, monkeypatch):
    folder, result = union
    monkeypatch.setattr("morel_jax.evaluation.protocol.Pool", None)  # Nothing is attacked again.
    again = evaluate_union(MODEL.logits, MODEL.x, MODEL.y, ["apgd-ce", "apgd-t"], folder, epsilons=RADII)
    assert again == result


@pytest.mark.parametrize(("options", "message"), [
    (dict(epsilons={}), "epsilons must have the radius of at least one norm; got none"),
    (dict(epsilons={"l1": 1.0}), "attack fgsm is for norm linf or l2; got 'l1'"),
    (dict(epsilons=RADII, attacks=["transfer-pgd3"]), "attacks must name one that is crafted on the network itself"),
    (dict(epsilons={"linf": 2.0}), r"epsilon must be in \[1e-06, 1\], the whole box in linf; got 2.0"),
])
def test_what_cannot_be_evaluated(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate_union(MODEL.logits, MODEL.x, MODEL.y, folder=tmp_path, **{"attacks": ["fgsm"]} | options)
