"""The quickstart's network in PyTorch, with our weights."""
import numpy as np
import torch
from torch import nn


class ConvNet(nn.Module):
    """``convnet_small``, in inference mode and without gradients of its weights.

    Args:
        variables: {"params": ..., "batch_stats": ...} of ``morel_jax.models.create("convnet_small", ...)``.
        size: height and width of the images.
    """

    def __init__(self, variables, size):
        super().__init__()
        params, stats = variables["params"], variables["batch_stats"]
        layers = []
        for number in (1, 2):
            kernel = np.asarray(params[f"conv{number}"]["kernel"]).transpose(3, 2, 0, 1)
            conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 4, stride=2, padding=1, bias=False)
            norm = nn.BatchNorm2d(kernel.shape[0])
            _fill(conv.weight, kernel)
            _fill(norm.weight, params[f"bn{number}"]["scale"])
            _fill(norm.bias, params[f"bn{number}"]["bias"])
            _fill(norm.running_mean, stats[f"bn{number}"]["mean"])
            _fill(norm.running_var, stats[f"bn{number}"]["var"])
            layers += [conv, norm, nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        # Ours flattens [height, width, channel]; PyTorch flattens [channel, height, width].
        weight = np.asarray(params["hidden"]["kernel"]).reshape(size // 4, size // 4, kernel.shape[0], -1)
        self.hidden = _linear(weight.transpose(2, 0, 1, 3).reshape(-1, weight.shape[-1]), params["hidden"]["bias"])
        self.linear = _linear(np.asarray(params["linear"]["kernel"]), params["linear"]["bias"])
        self.eval().requires_grad_(False)

    def forward(self, x):
        """float[n, channels, height, width] -> logits float[n, classes]."""
        return self.linear(torch.relu(self.hidden(self.convolutions(x).flatten(1))))


def _fill(tensor, values):
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(values)))


def _linear(kernel, bias):
    layer = nn.Linear(*kernel.shape)
    _fill(layer.weight, kernel.T)
    _fill(layer.bias, bias)
    return layer
