"""Networks of RobustBench's own classes, and entries of its leaderboards read by its own loader."""
import importlib.util
import json

import numpy as np
import pytest
import torch

from morel_jax import training
from morel_jax.configuration import recipe
from morel_jax.evaluation.trained import load_trained
from morel_jax.interop.torch import export_state_dict, import_model
from tests.commands import call
from tests.data import made
from tests.models import quick_jit
from tests.parity.torch_networks import channels_first, images, spread_batch_norms

pytestmark = pytest.mark.parity
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # Of CIFAR-10, the default of the classes.


def networks(robustbench):
    from robustbench.model_zoo.architectures import dm_wide_resnet as dm
    from robustbench.model_zoo.architectures.resnet import PreActBlockV2, PreActResNet

    return {
        "wide_resnet16_2_silu": lambda: dm.DMWideResNet(num_classes=7, depth=16, width=2, activation_fn=dm.Swish),
        "preact_resnet18_silu": lambda: dm.DMPreActResNet(depth=18, activation_fn=dm.Swish),
        "preact_resnet18": lambda: PreActResNet(PreActBlockV2, [2, 2, 2, 2], bn_before_fc=True),
    }


@pytest.mark.parametrize("name", ["wide_resnet16_2_silu", "preact_resnet18_silu", "preact_resnet18"])
def test_the_same_logits_and_a_strict_load_back(robustbench, name):
    torch.manual_seed(0)
    create = networks(robustbench)[name]
    network = spread_batch_norms(create()).eval()
    normalises = name.endswith("_silu")
    imported = import_model(network.state_dict(), mean=MEAN if normalises else None, std=STD if normalises else None)
    assert imported.name == name
    logits = quick_jit(imported.model.apply)(imported.variables, images()).logits
    with torch.no_grad():
        want = network(channels_first(images())).numpy()
    assert want.std() > 0.01
    assert np.abs(logits - want).max() < 1e-5

    state = export_state_dict(imported.variables, name, mean=imported.model.mean, std=imported.model.std)
    fresh = create().eval()
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    with torch.no_grad():
        np.testing.assert_array_equal(fresh(channels_first(images())).numpy(), want)


def module_of(path):
    spec = importlib.util.spec_from_file_location("entry", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """(workdir, folder of the entry, test images NCHW and labels): a network trained, judged and exported."""
    folder = tmp_path_factory.mktemp("robustbench")
    (folder / "archives").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        arrays = made.cifar10(folder / "archives", np.random.default_rng(0), rows=12)
        made.trust(patch, "cifar10", folder / "archives")
        config = recipe("wide_resnet10_1_silu,trades")
        config.data.update(dict(name="cifar10", archive_dir=str(folder / "archives"), cache_dir=str(folder / "cache")))
        config.model.update(dict(mean=MEAN, std=STD))
        config.update(dict(epochs=1, batch_size=30))
        config.attack.num_steps = config.validation.num_steps = 1
        training.fit(config, folder / "run", progress=False)
        for command in (("evaluate", "--which=last", "--attacks=autoattack", "--report_card=0", "--noprogress"),
                        ("export", "--which=last", "--format=robustbench", "--entry=id=Doe2026Robust_WRN-10-1",
                         "--entry=name=A title", "--entry=link=https://example.org", "--entry=authors=A. Doe")):
            status, _, error = call(patch, command[0], f"--workdir={folder / 'run'}", *command[1:])
            assert (status, "error" in error) == (0, False), error
    images, labels = arrays["test"]
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))) / 255
    return folder / "run", folder / "run" / "exported" / "last" / "robustbench", x, torch.from_numpy(labels)


def test_robustbench_loads_the_entry(robustbench, entry, monkeypatch, capsys):
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    workdir, folder, x, labels = entry
    module = module_of(folder / "network.py")
    name, registered = module.ENTRY
    zoo = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf]
    monkeypatch.setitem(zoo, name, registered)
    network = robustbench.utils.load_model(name, folder / "models", "cifar10", "Linf")
    want = load_trained(workdir, "last").logits_fn(np.asarray(x).transpose(0, 2, 3, 1))
    with torch.no_grad():
        for loaded in (network, module.load()):
            assert not loaded.training
            assert np.abs(loaded(x).numpy() - want).max() < 1e-5

    # Its leaderboard reads the numbers, which its own functions confirm.
    info = json.loads((folder / "model_info" / "cifar10" / "Linf" / f"{name}.json").read_text())
    assert info["clean_acc"] == f"{100 * robustbench.utils.clean_accuracy(network, x, labels):.2f}"
    monkeypatch.chdir(folder)
    capsys.readouterr()
    robustbench.utils.list_available_models("cifar10", "Linf")
    assert f"| <sub>**1**</sub> | <sub><sup>**{name}**</sup></sub> | <sub>*[A title](https://example.org)*</sub>" in (
        capsys.readouterr().out)
