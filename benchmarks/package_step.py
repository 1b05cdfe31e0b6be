"""The training step of the authors' own package, ``advermorel``, as it is published, on any device.

The package sends tensors to a GPU outright; while one of its losses runs, those calls lead to the device that is
compared. Nothing else is changed: its attack, its passes and its losses are its own.
"""
import contextlib
import tempfile
from unittest import mock

import advermorel
import torch
from advermorel.losses import morel as package_losses

from benchmarks.torch_steps import MEMORY_FORMATS, ResNet, augment


class _Classifier(ResNet):
    """Logits alone, the form that the package wraps."""

    def forward(self, x):
        return super().forward(x)[1]


class PackageStep:
    """One update as the package's ``train_epoch`` makes it.

    A MOREL method takes ``MOREL.get_morel_loss``: TRADES's or MART's passes and two more for the features, a backward
    pass through each. A baseline takes the package's ``trades_loss`` or ``mart_loss`` alone.

    Args:
        config: ConfigDict of a run with ``variant="reference"``; method trades, mart, morel_trades or morel_mart.
        num_classes: logits.
        weights: state dict of the network, of numpy arrays. The embedding space has the package's own initial values.
        device: torch.device or its name.
        memory_format: a name in ``MEMORY_FORMATS``.

    Attributes:
        network: the classifier; of a MOREL method without its last layer, which the package's wrapper takes.
        projection: the wrapper's layer from features to the embedding space; of a MOREL method alone.
    """

    def __init__(self, config, num_classes, weights, *, device="cpu", memory_format="contiguous"):
        self._config, self.device = config, torch.device(device)
        self._memory_format = MEMORY_FORMATS[memory_format]
        self.network = network = _Classifier(config.model.name, num_classes)
        network.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        network.to(self.device, memory_format=self._memory_format)
        attack, morel = config.attack, config.morel
        base = config.method.removeprefix("morel_")
        if config.method == base:
            self._model = network
            loss = getattr(advermorel, f"{base}_loss")
            self._loss = lambda x, labels: loss(
                network, x, labels, self._optimizer, step_size=attack.step_size, epsilon=attack.epsilon,
                perturb_steps=attack.num_steps, beta=config.loss.beta)
        else:
            with tempfile.TemporaryDirectory() as folder:  # The package makes one for checkpoints.
                wrapped = advermorel.MOREL(
                    network, "linear", num_classes, self.device, base, list(morel.preference),
                    list(morel.reference_point), morel.augmentation, morel.contrastive_weight,
                    config.embedding.embed_dim, config.embedding.num_heads, epsilon=attack.epsilon,
                    train_step_size=attack.step_size, train_perturb_steps=attack.num_steps, beta=config.loss.beta,
                    model_dir=folder, verbose=False)
            self._model = wrapped.model.to(self.device)
            self.projection = self._model.feat_layer
            self._loss = lambda x, labels: wrapped.get_morel_loss(x, labels, self._optimizer, 0)[0]
        optimizer = config.optimizer
        self._optimizer = torch.optim.SGD(self._model.parameters(), optimizer.learning_rate, optimizer.momentum,
                                          weight_decay=optimizer.weight_decay)

    def __call__(self, images, labels):
        """One step from uint8[n, height, width, channels] and int64[n] on the device; returns the loss, float32[]."""
        return self.update(augment(images, self._config.data.crop_padding, self._config.data.flip), labels)

    def update(self, x, labels):
        """Attack and descend from float32[n, channels, height, width] in [0, 1]; returns the loss, float32[]."""
        x = x.contiguous(memory_format=self._memory_format)
        self._model.train()
        self._optimizer.zero_grad()
        with _on(self.device):
            loss = self._loss(x, labels)
        loss.backward()
        self._optimizer.step()
        return loss.detach()


@contextlib.contextmanager
def _on(device):
    """What the package sends to a GPU goes to ``device``."""
    loss = package_losses.MultiPosConLoss
    init = loss.__init__
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor.to(device)), \
            mock.patch.object(loss, "__init__", lambda self, **options: init(self, **options | {"device": device})):
        yield
