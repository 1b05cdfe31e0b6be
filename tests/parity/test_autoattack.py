"""AutoAttack and its members against the authors' PyTorch code, on the quickstart's network, exported, 500 images."""
import logging

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from benchmarks.torch_convnet import convnet_small
from morel_jax.evaluation import evaluate
from morel_jax.interop.torch import save_checkpoint

pytestmark = [pytest.mark.parity, pytest.mark.slow]
COUNT = 500
# Twice the radius that the network was trained for: fewer images run to the end of every attack.
EPSILON = 0.2
THEIRS = {
    "apgd-ce": lambda net: APGDAttack(net, eps=EPSILON, norm="Linf", loss="ce", seed=0, device="cpu"),
    "apgd-t": lambda net: APGDAttack_targeted(net, eps=EPSILON, norm="Linf", seed=0, device="cpu"),
    "fab-t": lambda net: FABAttack_PT(net, eps=EPSILON, norm="Linf", seed=0, targeted=True, device="cpu"),
    "square": lambda net: SquareAttack(net, eps=EPSILON, norm="Linf", seed=0, p_init=0.8, n_queries=5000,
                                       resc_schedule=False, device="cpu"),
}


@pytest.fixture(scope="module")
def compared(quickstart_network, tmp_path_factory):
    """{attack: (bool[n] robust under ours, bool[n] robust under theirs)}; AutoAttack is what all four leave."""
    logging.disable(logging.WARNING)
    logits_fn, variables, dataset = quickstart_network
    images, labels = dataset.test.images[:COUNT], dataset.test.labels[:COUNT]
    folder = tmp_path_factory.mktemp("ours")
    summary = evaluate(logits_fn, images, labels, [*THEIRS, "autoattack"], folder, epsilon=EPSILON)
    ours = {name: np.zeros(COUNT, bool) for name in THEIRS}
    for line in (folder / "ledger.csv").read_text().splitlines()[1:]:
        attack, index, _, _, broken, *_ = line.split(",")
        ours[attack][int(index)] = broken == "0"

    save_checkpoint(folder / "model.pt", variables, "convnet_small")
    network = convnet_small(torch.load(folder / "model.pt", weights_only=True))
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    y = torch.from_numpy(labels.astype(np.int64))
    theirs = {name: (network(make(network).perturb(x, y)).argmax(1) == y).numpy() for name, make in THEIRS.items()}
    for found in (ours, theirs):
        found["autoattack"] = np.all(list(found.values()), axis=0)
    assert ours["autoattack"].sum() == summary["attacks"]["autoattack"]["correct"]
    return {name: (ours[name], theirs[name]) for name in ours}


@pytest.mark.parametrize("attack", [*THEIRS, "autoattack"])
def test_robust_accuracy_agrees(compared, attack):
    ours, theirs = compared[attack]
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    print(f"\n{attack}: robust {100 * ours.mean():.1f} % (ours), {100 * theirs.mean():.1f} % (theirs); robust only "
          f"under ours {only_ours}, only under theirs {only_theirs}; the same verdict on "
          f"{COUNT - only_ours - only_theirs} of {COUNT} images")
    assert 0.05 < theirs.mean() < 0.6  # The comparison means something: many images break, many do not.
    assert abs(ours.mean() - theirs.mean()) <= 0.01
    assert ours.mean() - theirs.mean() <= 0.005
