import json

import pytest

from morel_jax import models
from morel_jax.interop import robustbench

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
DATA = {"name": "cifar10", "test_images": 10000}
ABOUT = ["id=Doe2026Robust", "link=https://example.org/?a=b", "name=A title", "authors=A. Doe, B. Roe"]


def config(name="wide_resnet28_10_silu", extra=""):
    return {"method": "trades", "model": {"name": name}, "data": {"extra": extra}}


def summary(examples=10000, norm="linf", epsilon=8 / 255, attacks=("autoattack",)):
    return {"examples": examples, "settings": {"norm": norm, "epsilon": epsilon}, "clean": {"accuracy": 0.9244},
            "attacks": {name: {"accuracy": 0.6731} for name in attacks}}


def made(model=None, run=None, data=DATA, judged=None, about=ABOUT):
    model = models.create("wide_resnet28_10_silu", 10, mean=MEAN, std=STD) if model is None else model
    return robustbench.entry(model, run or config(), data, judged or summary(), about)


def test_numbers_of_a_leaderboard():
    entry = made(run=config(extra="parts.npz"))
    info = json.loads(entry.texts["model_info/cifar10/Linf/Doe2026Robust.json"])
    assert info == {
        "link": "https://example.org/?a=b", "name": "A title", "authors": "A. Doe, B. Roe", "additional_data": True,
        "number_forward_passes": 1, "dataset": "cifar10", "venue": "", "architecture": "WideResNet-28-10",
        "eps": "8/255", "clean_acc": "92.44", "reported": "67.31", "autoattack_acc": "67.31"}
    assert (entry.weights, entry.missing) == ("models/cifar10/Linf/Doe2026Robust.pt", ())


def test_what_is_not_given():
    entry = made(judged=summary(norm="l2", epsilon=0.5), about=["reported=70.00", "authors=A. Doe"])
    info = json.loads(entry.texts["model_info/cifar10/L2/trades_wide_resnet28_10_silu.json"])
    assert (info["eps"], info["reported"], info["additional_data"]) == ("0.5", "70.00", False)
    assert entry.missing == ("link", "name")


@pytest.mark.parametrize(("name", "code", "architecture"), [
    ("resnet50", "Bottleneck, [3, 4, 6, 3], num_classes=10", "ResNet-50"),
    ("wide_resnet34_10", "num_classes=10, depth=34, widen_factor=10", "WideResNet-34-10"),
    ("preact_resnet18", "PreActBlockV2, [2, 2, 2, 2], num_classes=10, bn_before_fc=True", "PreActResNet-18"),
    ("preact_resnet34_silu", "num_classes=10, depth=34, activation_fn=torch.nn.SiLU", "PreActResNet-34"),
])
@pytest.mark.parametrize("mean", [None, MEAN])
def test_code_of_each_kind_of_network(name, code, architecture, mean):
    model = models.create(name, 10, mean=mean, std=mean and STD)
    text = made(model).texts["network.py"]
    compile(text, "network.py", "exec")
    assert code in text
    assert robustbench.twin(model).architecture == architecture
    assert ("self.mu" in text) == (mean is not None and not name.endswith("silu"))
    if name.endswith("silu"):
        assert f"mean={mean or (0.0, 0.0, 0.0)}, std={STD if mean else (1.0, 1.0, 1.0)})" in text


@pytest.mark.parametrize(("options", "message"), [
    (dict(data={"name": "fashion_mnist", "test_images": 10000}), "cifar10 or cifar100 .*; got 'fashion_mnist'"),
    (dict(judged=summary(attacks=("pgd20",))), "must have AutoAttack .*--attacks=autoattack first"),
    (dict(judged=summary(examples=1000)), "all 10000 test images for RobustBench; got 1000"),
    (dict(about=["doi=1"]), "fields id, link, name, authors, venue, reported; got 'doi=1'"),
    (dict(about=["link"]), "FIELD=VALUE .*got 'link'"),
    (dict(about=["id=../x"]), "id names files.*got '../x'"),
    *((dict(model=models.create(name, 10)), "which has a class for no other")
      for name in ("convnet_small", "resnet8", "resnet8_half", "preact_resnet50")),
])
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_a_network_that_was_not_judged():
    with pytest.raises(ValueError, match="must have AutoAttack"):
        robustbench.entry(models.create("resnet18", 10), config(), DATA, None)
