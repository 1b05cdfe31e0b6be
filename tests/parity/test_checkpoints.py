"""Checkpoints in the layouts of TRADES, MART, AWP and RobustBench, through files, against plain PyTorch networks."""
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.torch_convnet import convnet_small
from morel_jax.interop.torch import export_state_dict, load_checkpoint, save_checkpoint
from tests.models import quick_jit
from tests.parity.torch_networks import NETWORKS, channels_first, images, torch_network

pytestmark = pytest.mark.parity
# As the training scripts save them: TRADES and MART a bare state dict, of DataParallel or not; AWP and RST under a key;
# others the network inside one that holds it.
SAVED = {
    "plain": lambda state: state,
    "data_parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "state_dict": lambda state: {"epoch": 76, "state_dict": {f"module.{key}": value for key, value in state.items()}},
    "basic_net": lambda state: {"net": {f"module.basic_net.{key}": value for key, value in state.items()}, "acc": 84.9},
}


@pytest.mark.parametrize(("name", "saved"), [
    ("resnet18", "plain"), ("resnet18", "state_dict"), ("resnet50", "data_parallel"), ("wide_resnet16_2", "plain"),
    ("wide_resnet16_2", "basic_net"), ("preact_resnet18", "data_parallel")])
def test_the_same_logits_and_every_tensor_back(tmp_path, name, saved):
    network = torch_network(name).eval()
    torch.save(SAVED[saved](network.state_dict()), tmp_path / "theirs.pt")
    imported = load_checkpoint(tmp_path / "theirs.pt")
    assert imported.name == name
    logits = quick_jit(imported.model.apply)(imported.variables, images()).logits
    with torch.no_grad():
        apart = np.abs(logits - network(channels_first(images())).numpy()).max()
    print(f"\n{name}: logits differ by {apart:.1e}")
    assert apart < 1e-4

    wide = name.startswith("wide_resnet")
    save_checkpoint(tmp_path / "ours.pt", imported.variables, name, sub_block1=wide)
    ours = torch.load(tmp_path / "ours.pt", weights_only=True)
    fresh = NETWORKS[name]()
    fresh.load_state_dict(ours, strict=True)
    for key, tensor in network.state_dict().items():
        if key.startswith("sub_block1."):  # Used by nothing, hence not kept.
            assert torch.equal(ours[key], ours[key.removeprefix("sub_")])
        else:
            assert ours[key].dtype == tensor.dtype
            assert torch.equal(ours[key], tensor)


def test_normalising_networks(tmp_path):
    """As RobustBench has them: buffers mu and sigma of the network itself, in the file or not."""
    class Normalising(type(torch_network("wide_resnet16_2"))):
        def __init__(self):
            super().__init__(16, 2)
            self.register_buffer("mu", torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1))
            self.register_buffer("sigma", torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1))

        def forward(self, x):
            return super().forward((x - self.mu) / self.sigma)

    network = Normalising().eval()
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    name, model, variables = load_checkpoint(tmp_path / "theirs.pt")
    with torch.no_grad():
        want = network(channels_first(images())).numpy()
    assert np.abs(quick_jit(model.apply)(variables, images()).logits - want).max() < 1e-4
    ours = export_state_dict(variables, name, mean=model.mean, std=model.std, sub_block1=True)
    fresh = Normalising().eval()
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in ours.items()}, strict=True)
    with torch.no_grad():
        np.testing.assert_array_equal(fresh(channels_first(images())).numpy(), want)


def test_preactivation_networks_that_tensors_do_not_tell_apart(tmp_path):
    state = {key: value for key, value in torch_network("preact_resnet18").state_dict().items()
             if not key.startswith("bn.")}
    torch.save({"state_dict": state}, tmp_path / "preact.pt")
    with pytest.raises(ValueError, match=r"this is a PreActResNet without 'bn\.weight'"):
        load_checkpoint(tmp_path / "preact.pt")


def test_the_first_wrong_tensor_is_named(tmp_path):
    state = torch_network("wide_resnet16_2").state_dict()
    state["block2.layer.1.conv1.weight"] = state["block2.layer.1.conv1.weight"][:, :, 1:]
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=r"'block2\.layer\.1\.conv1\.weight' must have shape \(64, 64, 3, 3\) in "
                                         r"wide_resnet16_2; got \(64, 64, 2, 3\)"):
        load_checkpoint(tmp_path / "wrong.pt")


def test_the_command_exports_to_plain_pytorch(quickstart, quickstart_network, tmp_path):
    """A trained network, which flattens images in an order of its own."""
    logits_fn, _, dataset = quickstart_network
    subprocess.run([sys.executable, "-m", "morel_jax.export", f"--workdir={quickstart[0] / 'morel'}", "--format=torch",
                    f"--out={tmp_path}"], check=True)
    network = convnet_small(torch.load(tmp_path / "model.pt", weights_only=True))
    x = np.float32(dataset.test.images[:50]) / 255
    apart = np.abs(logits_fn(x) - network(channels_first(x)).numpy()).max()
    print(f"\nconvnet_small: logits differ by {apart:.1e}")
    assert apart < 1e-4
    state = network.state_dict()
    again = export_state_dict(load_checkpoint(tmp_path / "model.pt").variables, "convnet_small")
    assert all(torch.equal(torch.from_numpy(again[key]), tensor) for key, tensor in state.items())
