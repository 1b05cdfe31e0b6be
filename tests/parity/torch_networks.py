"""PyTorch's forms of our networks, written from the layouts, with weights that tell every parameter apart."""
import numpy as np
import torch

nn = torch.nn
F = torch.nn.functional


def conv2d(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class TorchResidual(nn.Module):
    """Basic block (kernel sizes 3, 3) or bottleneck (1, 3, 1); the 3x3 convolution that comes first strides."""

    def __init__(self, inputs, width, stride, sizes):
        super().__init__()
        outputs = width * (4 if len(sizes) == 3 else 1)
        widths = [inputs] + [width] * (len(sizes) - 1) + [outputs]
        self.count = len(sizes)
        for i, size in enumerate(sizes):
            here = stride if i == sizes.index(3) else 1
            setattr(self, f"conv{i + 1}", conv2d(widths[i], widths[i + 1], size, here))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + self.shortcut(x))


class TorchResNet(nn.Module):
    def __init__(self, sizes, blocks, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv2d(3, 64, 3), nn.BatchNorm2d(64)
        inputs, expansion = 64, 4 if len(sizes) == 3 else 1
        for stage, count in enumerate(blocks):
            width, layers = 64 * 2**stage, []
            for i in range(count):
                layers.append(TorchResidual(inputs, width, 2 if stage and not i else 1, sizes))
                inputs = width * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


class TorchPreActivation(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv2d(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv2d(outputs, outputs, 3)
        self.convShortcut = None if inputs == outputs else conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class TorchGroup(nn.Module):
    def __init__(self, count, inputs, outputs, stride):
        super().__init__()
        self.layer = nn.Sequential(*(TorchPreActivation(outputs if i else inputs, outputs, 1 if i else stride)
                                     for i in range(count)))

    def forward(self, x):
        return self.layer(x)


def start_normal(network, head):
    """TRADES' initial values."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels
            nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
    nn.init.zeros_(head.bias)


class TorchWideResNet(nn.Module):
    def __init__(self, depth, factor, num_classes=10):
        super().__init__()
        count = (depth - 4) // 6
        widths = [16, 16 * factor, 32 * factor, 64 * factor]
        self.conv1 = conv2d(3, 16, 3)
        self.block1 = TorchGroup(count, widths[0], widths[1], 1)
        self.sub_block1 = TorchGroup(count, widths[0], widths[1], 1)  # In the state dict, but never used.
        self.block2 = TorchGroup(count, widths[1], widths[2], 2)
        self.block3 = TorchGroup(count, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        start_normal(self, self.fc)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class TorchPreActResidual(nn.Module):
    """BatchNorm and relu before every convolution, of sizes 3, 3 or 1, 3, 1; the shortcut takes the first relu."""

    def __init__(self, inputs, width, stride, sizes):
        super().__init__()
        outputs = width * (4 if len(sizes) == 3 else 1)
        widths = [inputs] + [width] * (len(sizes) - 1) + [outputs]
        self.count = len(sizes)
        for i, size in enumerate(sizes):
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i]))
            setattr(self, f"conv{i + 1}", conv2d(widths[i], widths[i + 1], size, stride if i == sizes.index(3) else 1))
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv2d(inputs, outputs, 1, stride))

    def forward(self, x):
        y, shortcut = x, x
        for i in range(1, self.count + 1):
            y = F.relu(getattr(self, f"bn{i}")(y))
            if i == 1 and hasattr(self, "shortcut"):
                shortcut = self.shortcut(y)
            y = getattr(self, f"conv{i}")(y)
        return y + shortcut


class TorchPreActResNet(nn.Module):
    def __init__(self, sizes, blocks, num_classes=10, final_norm=True):
        super().__init__()
        self.conv1 = conv2d(3, 64, 3)
        inputs, expansion = 64, 4 if len(sizes) == 3 else 1
        for stage, count in enumerate(blocks):
            width, layers = 64 * 2**stage, []
            for i in range(count):
                layers.append(TorchPreActResidual(inputs, width, 2 if stage and not i else 1, sizes))
                inputs = width * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(inputs) if final_norm else None
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
        x = x if self.bn is None else F.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))


class TorchSiluBlock(nn.Module):
    """Two 3x3 convolutions of these names. A shortcut of size 1 takes the activation, one of size 3 the input."""

    def __init__(self, inputs, outputs, stride, names, shortcut):
        super().__init__()
        self.names, self.pad = names, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        setattr(self, names[0], nn.Conv2d(inputs, outputs, 3, stride, bias=False))
        setattr(self, names[1], conv2d(outputs, outputs, 3))
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, shortcut, stride, bias=False)

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        active = F.silu(self.batchnorm_0(x))
        y = second(F.silu(self.batchnorm_1(first(F.pad(active, self.pad)))))
        if not hasattr(self, "shortcut"):
            return y + x
        return y + self.shortcut(active if self.shortcut.kernel_size == (1, 1) else F.pad(x, self.pad))


def silu_blocks(count, inputs, outputs, stride, names, shortcut):
    return nn.Sequential(*(TorchSiluBlock(outputs if i else inputs, outputs, 1 if i else stride, names, shortcut)
                           for i in range(count)))


class TorchSiluWideResNet(nn.Module):
    def __init__(self, depth, factor, num_classes=10):
        super().__init__()
        widths = [16, 16 * factor, 32 * factor, 64 * factor]
        self.init_conv = conv2d(3, 16, 3)
        groups = [nn.Module() for _ in range(3)]
        for i, group in enumerate(groups):
            group.block = silu_blocks((depth - 4) // 6, widths[i], widths[i + 1], 2 if i else 1,
                                      ("conv_0", "conv_1"), 1)
        self.layer = nn.ModuleList(groups)
        self.batchnorm, self.logits = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], num_classes)
        start_normal(self, self.logits)

    def forward(self, x):
        x = self.init_conv(x)
        for group in self.layer:
            x = group.block(x)
        return self.logits(F.silu(self.batchnorm(x)).mean((2, 3)))


class TorchSiluPreActResNet(nn.Module):
    def __init__(self, blocks, num_classes=10):
        super().__init__()
        self.conv_2d, inputs = conv2d(3, 64, 3), 64
        for stage, count in enumerate(blocks):
            names, width = ("conv_2d_1", "conv_2d_2"), 64 * 2**stage
            setattr(self, f"layer_{stage}", silu_blocks(count, inputs, width, 2 if stage else 1, names, 3))
            inputs = width
        self.batchnorm, self.logits = nn.BatchNorm2d(inputs), nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.conv_2d(x)
        for stage in range(4):
            x = getattr(self, f"layer_{stage}")(x)
        return self.logits(F.silu(self.batchnorm(x)).mean((2, 3)))


NETWORKS = {
    "resnet18": lambda: TorchResNet((3, 3), (2, 2, 2, 2)),
    "resnet50": lambda: TorchResNet((1, 3, 1), (3, 4, 6, 3)),
    "wide_resnet16_2": lambda: TorchWideResNet(16, 2),
    "preact_resnet18": lambda: TorchPreActResNet((3, 3), (2, 2, 2, 2)),
    "preact_resnet50": lambda: TorchPreActResNet((1, 3, 1), (3, 4, 6, 3)),
    "wide_resnet16_2_silu": lambda: TorchSiluWideResNet(16, 2),
    "preact_resnet18_silu": lambda: TorchSiluPreActResNet((2, 2, 2, 2)),
}


def torch_network(name):
    """Initial weights; BatchNorm's parameters and running statistics away from zero and one."""
    torch.manual_seed(0)
    return spread_batch_norms(NETWORKS[name]())


def spread_batch_norms(network):
    """The network, BatchNorm's parameters and running statistics away from zero and one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def images(n=4, size=32):
    return np.random.default_rng(0).uniform(size=(n, size, size, 3)).astype(np.float32)


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
