"""Networks of RobustBench's own classes."""
import numpy as np
import pytest
import torch

from morel_jax.interop.torch import export_state_dict, import_model
from tests.models import quick_jit
from tests.parity.test_models import channels_first, images, spread_batch_norms

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
