"""The PyTorch training steps that ours is measured against: with the reference implementation's passes, and lean.

Written anew from the equations and from the list of the reference implementation's passes; both steps make the
same update as ``morel_jax`` with ``variant="reference"``, running statistics included (tests/benchmarks).
Images are float32[n, channels, height, width] in [0, 1] in either memory format.
"""
import torch
import torch.nn.functional as F
from torch import nn

_STAGES = {
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": ((3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet8": ((1, 1, 1), (16, 32, 64)),
    "resnet14": ((2, 2, 2), (16, 32, 64)),
    "resnet20": ((3, 3, 3), (16, 32, 64)),
}
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class _Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR ResNet of basic blocks, its state dict as ``morel_jax.interop.torch.export_state_dict`` writes it.

    Args:
        name: ``resnet8``, ``resnet14``, ``resnet18``, ``resnet20`` or ``resnet34``.
        num_classes: logits.
        channels: of the images.

    Raises:
        ValueError: another name.
    """

    def __init__(self, name, num_classes, channels=3):
        super().__init__()
        if name not in _STAGES:
            raise ValueError(f"the PyTorch side has {', '.join(_STAGES)}; got {name!r}.")
        sizes, widths = _STAGES[name]
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            strides = [2 if stage > 0 else 1] + [1] * (size - 1)
            blocks = [_Block(inputs if i == 0 else width, width, stride) for i, stride in enumerate(strides)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = width
        self.stages = len(sizes)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x):
        """float32[n, channels, height, width] -> (features float32[n, width], logits float32[n, num_classes])."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        features = x.float().mean((2, 3))
        with torch.autocast(features.device.type, enabled=False):
            return features, self.linear(features)


class EmbeddingSpace(nn.Module):
    """MOREL's L_e and M_e.

    Args:
        weights: nested dict of numpy arrays, parameters of ``morel_jax.models.EmbeddingSpace``.
        num_heads: attention heads.
        grouped: attend within each class apart, as the paper's Algorithm 1 is written; else once over the batch
            under a mask, with the same result.
    """

    def __init__(self, weights, num_heads, grouped):
        super().__init__()
        self.num_heads, self.grouped = num_heads, grouped
        for name in ("projection", "qkv", "out"):
            kernel, bias = (torch.tensor(weights[name][leaf]) for leaf in ("kernel", "bias"))
            layer = nn.Linear(*kernel.shape)
            layer.load_state_dict({"weight": kernel.T, "bias": bias})
            self.add_module(name, layer)
        self.norm = nn.LayerNorm(self.out.out_features, eps=1e-6)
        self.norm.load_state_dict({"weight": torch.tensor(weights["norm"]["scale"]),
                                   "bias": torch.tensor(weights["norm"]["bias"])})

    def _attention(self, projected, mask=None):
        n, width = projected.shape
        qkv = self.qkv(self.norm(projected)).reshape(n, 3, self.num_heads, width // self.num_heads)
        mixed = F.scaled_dot_product_attention(*qkv.permute(1, 2, 0, 3), attn_mask=mask)
        return projected + self.out(mixed.transpose(0, 1).reshape(n, width))

    def attend(self, projected, labels):
        """s float32[n, embed_dim] and int64[n] -> t float32[n, embed_dim], rows in the batch's order."""
        if not self.grouped:
            return self._attention(projected, labels[:, None] == labels[None, :])
        groups = [torch.nonzero(labels == label).squeeze(1) for label in labels.unique()]
        attended = torch.cat([self._attention(projected[rows]) for rows in groups])
        return attended[torch.cat(groups).argsort()]


def augment(images, padding, flip):
    """Random crop after zero padding, and horizontal flip, one draw an image, on the images' own device.

    Args:
        images: uint8[n, height, width, channels].
        padding: pixels of zeros on each side.
        flip: mirror each image with probability 1/2.

    Returns:
        float32[n, channels, height, width] in [0, 1].
    """
    n, height, width, _ = images.shape
    rows, columns = (torch.arange(size, device=images.device).expand(n, size) for size in (height, width))
    if flip:
        mirrored = torch.rand((n, 1), device=images.device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if padding:
        images = F.pad(images, (0, 0, padding, padding, padding, padding))
        offsets = torch.randint(0, 2 * padding + 1, (2, n, 1), device=images.device)
        rows, columns = rows + offsets[0], columns + offsets[1]
    example = torch.arange(n, device=images.device)[:, None, None]
    return images[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).float() / 255


def _trades_divergence(logits, logits_adv):
    """KL(natural || adversarial) summed over the batch, over n."""
    return F.kl_div(F.log_softmax(logits_adv, -1), F.softmax(logits, -1), reduction="sum") / len(logits)


def _mart(logits, logits_adv, labels, beta):
    p, p_adv = F.softmax(logits, -1), F.softmax(logits_adv, -1)
    # The reference implementation sorts; the two largest are enough, and over 10 classes either costs nothing.
    first, second = p_adv.topk(2, dim=-1).indices.unbind(-1)
    runner_up = torch.where(first == labels, second, first)
    boosted = F.cross_entropy(logits_adv, labels) - torch.log(
        1.0001 - p_adv.gather(1, runner_up[:, None]) + 1e-12).mean()
    divergence = F.kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(-1)
    return boosted + beta * (divergence * (1.0000001 - p.gather(1, labels[:, None]).squeeze(1))).mean()


def _contrastive(attended, labels, temperature):
    """Multi-positive contrastive loss over natural rows, mean over anchors."""
    t = F.normalize(attended)
    itself = torch.eye(len(t), dtype=torch.bool, device=t.device)
    log_p = F.log_softmax((t @ t.T / temperature).masked_fill(itself, -torch.inf), -1).masked_fill(itself, 0.0)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    return -((log_p * positives).sum(-1) / positives.sum(-1).clamp(min=1)).mean()


class _Step:
    """What both steps share: network, optimiser, augmentation, attack, and MOREL's scalarisation.

    Args:
        config: ConfigDict of a run with ``variant="reference"``; method trades, mart, morel_trades or morel_mart.
        num_classes: logits.
        weights: state dict of the network, of numpy arrays.
        embedding_weights: nested dict of numpy arrays, for a MOREL method.
        device: torch.device or its name.
        memory_format: a name in MEMORY_FORMATS.
        dtype: ``float32``, or ``bfloat16`` for autocast.
    """
    grouped_attention: bool

    def __init__(self, config, num_classes, weights, embedding_weights=None, *, device="cpu",
                 memory_format="contiguous", dtype="float32"):
        self.config = config
        self.device = torch.device(device)
        self.memory_format = MEMORY_FORMATS[memory_format]
        self.dtype = getattr(torch, dtype)
        self.network = ResNet(config.model.name, num_classes)
        self.network.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        self.network.to(self.device, memory_format=self.memory_format)
        self.trained = [*self.network.parameters()]
        self.embedding = None
        if embedding_weights is not None:
            self.embedding = EmbeddingSpace(embedding_weights, config.embedding.num_heads,
                                            self.grouped_attention).to(self.device)
            self.trained += self.embedding.parameters()
        self.optimizer = self._build_optimizer()

    def _build_optimizer(self, **options):
        optimizer = self.config.optimizer
        return torch.optim.SGD(self.trained, optimizer.learning_rate, optimizer.momentum,
                               weight_decay=optimizer.weight_decay, **options)

    def __call__(self, images, labels):
        """One step from uint8[n, height, width, channels] and int64[n] on the device; returns the loss, float32[]."""
        return self.update(augment(images, self.config.data.crop_padding, self.config.data.flip), labels)

    def update(self, x, labels, start=None):
        """Attack and descend.

        Args:
            x: float32[n, channels, height, width] in [0, 1].
            labels: int64[n].
            start: where the attack begins, shaped like x; None draws it.

        Returns:
            The loss, float32[].
        """
        x = x.contiguous(memory_format=self.memory_format)
        x_adv = self.attack(x, labels, start)
        self.network.train()
        self.optimizer.zero_grad()
        loss = self._loss(x, x_adv, labels)
        loss.backward()
        self.optimizer.step()
        self._move_statistics()
        return loss.detach()

    def forward(self, x):
        """(features, logits), both float32, in the compute type that was asked for."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.network(x)

    def attack(self, x, labels, start=None):
        """PGD on the network with running statistics; arguments as for ``update``; returns images like x."""
        attack = self.config.attack
        self.network.eval()
        # In the box already, as x is: one clamp then projects on ball and box.
        low, high = (x - attack.epsilon).clamp(0, 1), (x + attack.epsilon).clamp(0, 1)
        if start is None:
            start = x + 0.001 * torch.randn_like(x)
        x_adv = torch.clamp(start.contiguous(memory_format=self.memory_format), low, high)
        p = None
        for _ in range(attack.num_steps):
            logits = self.forward(x_adv.requires_grad_())[1]
            if attack.loss == "kl":
                p = self._clean_probabilities(x, p)
                climbed = F.kl_div(F.log_softmax(logits, -1), p, reduction="sum")
            else:
                climbed = F.cross_entropy(logits, labels, reduction="sum")
            gradient, = torch.autograd.grad(climbed, [x_adv])
            x_adv = torch.clamp(x_adv.detach() + attack.step_size * gradient.sign(), low, high)
        return x_adv

    def _clean_probabilities(self, x, earlier):
        """What TRADES's attack compares with; ``earlier`` is what its last step had, or None."""
        if earlier is not None:
            return earlier
        with torch.no_grad():
            return F.softmax(self.forward(x)[1], -1)

    def _join(self, classification, features, features_adv, labels):
        """MOREL's conic scalarisation, where there is an embedding space."""
        if self.embedding is None:
            return classification
        morel = self.config.morel
        s, s_adv = self.embedding.projection(features), self.embedding.projection(features_adv)
        representation = (1 - F.cosine_similarity(s, s_adv)).mean() + morel.contrastive_weight * _contrastive(
            self.embedding.attend(s, labels), labels, morel.temperature)
        excess = (representation - morel.reference_point[0], classification - morel.reference_point[1])
        return sum((k + morel.augmentation) * e for k, e in zip(morel.preference, excess, strict=True))

    def _move_statistics(self):
        """After the update, what the forward passes have not done themselves."""


class RedundantStep(_Step):
    """The reference implementation's passes.

    In the update, forward passes in training mode in the order natural, adversarial, natural, natural, adversarial
    (TRADES) or natural, adversarial, natural, adversarial (MART), each moving the running statistics. The first
    two give MOREL's features; a baseline has no use for theirs, so they cost it no backward pass. In TRADES the
    third gives the cross-entropy, the last two the divergence. In the attack, parameters require gradients, so
    autograd records and keeps what those would need; and each step computes TRADES's clean probabilities again,
    as TRADES's published code does.
    """
    grouped_attention = True

    def _clean_probabilities(self, x, earlier):
        return F.softmax(self.forward(x)[1], -1)

    def _loss(self, x, x_adv, labels):
        features, features_adv = self.forward(x)[0], self.forward(x_adv)[0]
        beta = self.config.loss.beta
        logits = self.forward(x)[1]
        if self.config.method.endswith("trades"):
            classification = F.cross_entropy(logits, labels)
            logits = self.forward(x)[1]
            classification = classification + beta * _trades_divergence(logits, self.forward(x_adv)[1])
        else:
            classification = _mart(logits, self.forward(x_adv)[1], labels, beta)
        return self._join(classification, features, features_adv, labels)


class LeanStep(_Step):
    """The same update with no pass that is not needed.

    Natural and adversarial images go through the network once each; the running statistics then take all their
    moves at once. In the attack parameters require no gradients. The optimiser is fused.
    """
    grouped_attention = False

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._running, self._kept = [], []
        for layer in self.network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                # A forward pass then leaves its batch's own statistics, which `_move_statistics` mixes.
                layer.momentum = 1.0
                layer.num_batches_tracked = None
                self._running += [layer.running_mean, layer.running_var]
        share = self.config.batch_norm.momentum
        self._shares = {"running": 1.0, "natural": 0.0, "adversarial": 0.0}
        for kind in self.config.batch_norm.statistics_from:
            self._shares = {name: share * value for name, value in self._shares.items()}
            self._shares[kind] += 1.0 - share

    def _build_optimizer(self):
        return super()._build_optimizer(fused=True)

    def attack(self, x, labels, start=None):
        self.network.requires_grad_(False)
        try:
            return super().attack(x, labels, start)
        finally:
            self.network.requires_grad_(True)

    def _loss(self, x, x_adv, labels):
        self._kept = [torch._foreach_mul(self._running, self._shares["running"])]
        features, logits = self.forward(x)
        self._kept.append(torch._foreach_mul(self._running, self._shares["natural"]))
        features_adv, logits_adv = self.forward(x_adv)
        beta = self.config.loss.beta
        if self.config.method.endswith("trades"):
            classification = F.cross_entropy(logits, labels) + beta * _trades_divergence(logits, logits_adv)
        else:
            classification = _mart(logits, logits_adv, labels, beta)
        return self._join(classification, features, features_adv, labels)

    def _move_statistics(self):
        with torch.no_grad():
            torch._foreach_mul_(self._running, self._shares["adversarial"])
            for kept in self._kept:
                torch._foreach_add_(self._running, kept)
