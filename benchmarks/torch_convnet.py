"""What somebody with PyTorch alone writes to use an exported ``convnet_small``; docs/interop.md shows the same."""
from collections import OrderedDict

from torch import nn


def convnet_small(state_dict):
    """The network of a state dict, loaded strictly, in inference mode and without gradients of its weights."""
    width, channels = state_dict["conv1.weight"].shape[:2]
    network = nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(channels, width, 4, 2, 1, bias=False), bn1=nn.BatchNorm2d(width), relu1=nn.ReLU(),
        conv2=nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), bn2=nn.BatchNorm2d(2 * width), relu2=nn.ReLU(),
        flatten=nn.Flatten(), hidden=nn.Linear(*reversed(state_dict["hidden.weight"].shape)), relu3=nn.ReLU(),
        linear=nn.Linear(*reversed(state_dict["linear.weight"].shape))))
    network.load_state_dict(state_dict, strict=True)
    return network.eval().requires_grad_(False)
