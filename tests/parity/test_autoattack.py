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
# What a random attack leaves of one network varies from seed to seed, in both codes: Square's by 0.3 to 0.4 points (one
# standard deviation), APGD's, where many images are close to the edge, by up to 0.7. So means are compared. FAB-T draws
# nothing.
SEEDS = {"apgd-ce": 3, "apgd-t": 3, "fab-t": 1, "square": 3}
THEIRS = {
    "apgd-ce": lambda net, seed: APGDAttack(net, eps=EPSILON, norm="Linf", loss="ce", seed=seed, device="cpu"),
    "apgd-t": lambda net, seed: APGDAttack_targeted(net, eps=EPSILON, norm="Linf", seed=seed, device="cpu"),
    "fab-t": lambda net, seed: FABAttack_PT(net, eps=EPSILON, norm="Linf", seed=seed, targeted=True, device="cpu"),
    "square": lambda net, seed: SquareAttack(net, eps=EPSILON, norm="Linf", seed=seed, p_init=0.8, n_queries=5000,
                                             resc_schedule=False, device="cpu"),
}


def left(folder):
    """{attack: bool[n], which images it left} by the ledger of an evaluation."""
    robust = {}
    for line in (folder / "ledger.csv").read_text().splitlines()[1:]:
        attack, index, _, _, broken, *_ = line.split(",")
        robust.setdefault(attack, np.zeros(COUNT, bool))[int(index)] = broken == "0"
    return robust


@pytest.fixture(scope="module")
def compared(quickstart_network, tmp_path_factory):
    """{attack: (bool[seeds, n] robust under ours, the same under theirs)}; AutoAttack is what all of one seed leave."""
    logging.disable(logging.WARNING)
    logits_fn, variables, dataset = quickstart_network
    images, labels = dataset.test.images[:COUNT], dataset.test.labels[:COUNT]
    folder = tmp_path_factory.mktemp("compared")
    ours = {name: [] for name in THEIRS}
    for seed in range(max(SEEDS.values())):
        attacks = [name for name in THEIRS if seed < SEEDS[name]]
        evaluate(logits_fn, images, labels, attacks, folder / str(seed), epsilon=EPSILON, seed=seed)
        for name, robust in left(folder / str(seed)).items():
            ours[name].append(robust)
    summary = evaluate(logits_fn, images, labels, ["autoattack"], folder / "0", epsilon=EPSILON)

    save_checkpoint(folder / "model.pt", variables, "convnet_small")
    network = convnet_small(torch.load(folder / "model.pt", weights_only=True))
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    y = torch.from_numpy(labels.astype(np.int64))
    theirs = {name: [(network(make(network, seed).perturb(x, y)).argmax(1) == y).numpy() for seed in range(SEEDS[name])]
              for name, make in THEIRS.items()}
    for found in (ours, theirs):
        found["autoattack"] = [np.all([*robust, found["fab-t"][0]], axis=0)
                               for robust in zip(found["apgd-ce"], found["apgd-t"], found["square"], strict=False)]
    assert ours["autoattack"][0].sum() == summary["attacks"]["autoattack"]["correct"]
    return {name: (np.array(ours[name]), np.array(theirs[name])) for name in ours}


@pytest.mark.parametrize("attack", [*THEIRS, "autoattack"])
def test_robust_accuracy_agrees(compared, attack):
    ours, theirs = compared[attack]
    assert ours.shape == theirs.shape == (SEEDS.get(attack, SEEDS["apgd-t"]), COUNT)
    only_ours, only_theirs = int((ours & ~theirs)[0].sum()), int((theirs & ~ours)[0].sum())
    print(f"\n{attack}: robust {100 * ours.mean():.2f} % (ours), {100 * theirs.mean():.2f} % (theirs), mean over "
          f"{len(ours)} seeds; of the first, robust only under ours {only_ours}, only under theirs {only_theirs}; the "
          f"same verdict on {COUNT - only_ours - only_theirs} of {COUNT} images")
    assert 0.05 < theirs.mean() < 0.6  # The comparison means something: many images break, many do not.
    assert abs(ours.mean() - theirs.mean()) <= 0.01
    assert ours.mean() - theirs.mean() <= 0.005
