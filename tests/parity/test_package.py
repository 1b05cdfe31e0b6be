"""Whole training steps against the authors' own package, ``advermorel``, around a network that is neither's."""
from functools import partial
from unittest import mock

import advermorel
import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from advermorel.losses import morel as package_losses

from morel_jax import models
from morel_jax.attacks.starts import NORMAL_START_SCALE
from morel_jax.configuration import recipe
from morel_jax.training.custom import CustomParts
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, train_step

pytestmark = pytest.mark.parity

CLASSES, COUNT, STEPS = 10, 24, 3  # The package's LOAT divides by 9 whatever the classes are.
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (STEPS, COUNT, 8, 8, 3), np.uint8)
LABELS = RANDOM.integers(0, CLASSES, (STEPS, COUNT)).astype(np.int32)
# Twenty times what the package draws: closer to the clean image KL's gradients have no certain sign in float32.
NOISE = 20 * RANDOM.standard_normal((COUNT, 8, 8, 3)).astype(np.float32)


class Net(nn.Module):
    """Its activation is smooth: a gradient's sign then seldom turns on rounding."""

    @nn.compact
    def __call__(self, x, train=False):
        for number, stride in enumerate((1, 2)):
            x = nn.Conv(8, (3, 3), stride, ((1, 1), (1, 1)), use_bias=False, name=f"conv{number}")(x)
            # PyTorch's running variance is the unbiased one, linen's the biased.
            x = nn.softplus(models.BatchNorm(not train, name=f"bn{number}")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class TorchNet(torch.nn.Module):
    def __init__(self, params):
        super().__init__()
        for number, (width, stride) in enumerate(((3, 1), (8, 2))):
            conv = torch.nn.Conv2d(width, 8, 3, stride, 1, bias=False)
            conv.weight.data = torch.tensor(np.transpose(params[f"conv{number}"]["kernel"], (3, 2, 0, 1)).copy())
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", torch.nn.BatchNorm2d(8))
        self.head = torch.nn.Linear(8, CLASSES)
        fill(self.head, params["head"])

    def forward(self, x):
        for number in range(2):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            x = torch.nn.functional.softplus(x)
        return self.head(x.mean((2, 3)))


def fill(layer, weights):
    layer.weight.data = torch.tensor(np.array(weights["kernel"]).T.copy())
    layer.bias.data = torch.tensor(np.array(weights["bias"]))


def nchw(images):
    return torch.tensor(np.moveaxis(images, -1, 1).copy())


def ours(config):
    """(losses, trained state, first state) of three steps, the attack from the package's start with known noise."""
    parts = build_parts(config, CLASSES, CustomParts(model=Net(), features="head"))
    hparams = build_hparams(config, 1)
    first = state = create_state(parts, jax.random.key(1), (8, 8, 3), hparams, average=False)
    step, losses = jax.jit(partial(train_step, parts=parts)), []
    with mock.patch("morel_jax.attacks.pgd.start_point", lambda start, key, x, *_: x + NORMAL_START_SCALE * NOISE):
        for images, labels in zip(IMAGES, LABELS, strict=True):
            state, metrics = step(state, hparams, Batch(images, labels, np.arange(COUNT)), jax.random.key(0))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state), jax.device_get(first)


def theirs(config, first, folder, **options):
    """(losses, wrapped network) of the package's three steps from our initial values."""
    morel, attack, optimizer = config.morel, config.attack, config.optimizer
    package = advermorel.MOREL(
        TorchNet(first.params["classifier"]), "head", CLASSES, "cpu", config.method.removeprefix("morel_"),
        list(morel.preference), list(morel.reference_point), morel.augmentation, morel.contrastive_weight,
        config.embedding.embed_dim, config.embedding.num_heads, epsilon=attack.epsilon,
        train_step_size=attack.step_size, train_perturb_steps=attack.num_steps, beta=config.loss.beta,
        distance={"linf": "l_inf", "l2": "l_2"}[attack.norm], model_dir=str(folder), verbose=False, **options)
    embedding, network = first.params["embedding"], package.model
    fill(network.feat_layer, embedding["projection"])
    network.pre_norm.weight.data = torch.tensor(embedding["norm"]["scale"])
    network.pre_norm.bias.data = torch.tensor(embedding["norm"]["bias"])
    network.attention.in_proj_weight.data = torch.tensor(embedding["qkv"]["kernel"].T.copy())
    network.attention.in_proj_bias.data = torch.tensor(embedding["qkv"]["bias"])
    fill(network.attention.out_proj, embedding["out"])
    descent = torch.optim.SGD(network.parameters(), optimizer.learning_rate, optimizer.momentum,
                              weight_decay=optimizer.weight_decay)
    contrastive, losses = package_losses.MultiPosConLoss.__init__, []
    with mock.patch.object(torch, "randn", return_value=nchw(NOISE)), \
            mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor), \
            mock.patch.object(package_losses.MultiPosConLoss, "__init__",
                              lambda self, device: contrastive(self, "cpu")):
        for images, labels in zip(IMAGES, LABELS, strict=True):
            network.train()
            descent.zero_grad()
            loss, _ = package.get_morel_loss(nchw(images.astype(np.float32) / 255), torch.tensor(labels).long(),
                                             descent, epoch=0)
            loss.backward()
            descent.step()
            losses.append(float(loss.detach()))
    return losses, network


@pytest.mark.parametrize(("method", "rows", "threat", "options"), [
    ("morel_mart", "both", "linf", {}), ("morel_mart", "natural", "linf", {"feat_type": "nat"}),
    ("morel_mart", "adversarial", "linf", {"feat_type": "adver"}), ("morel_trades", "both", "linf", {}),
    ("morel_trades", "both", "l2", {}), ("morel_loat", "both", "linf", {}),
    ("morel_loat", "both", "linf", {"loat_lore_type": "LORE", "loat_gamma": 0.5})])
def test_three_steps(method, rows, threat, options, tmp_path):
    """Losses, parameters and running statistics are the package's, whose passes the reference variant counts."""
    config = recipe(f"resnet18,{method},reference,{threat}")
    config.data.crop_padding, config.data.flip, config.attack.num_steps = 0, False, 3
    if threat == "l2":  # TRADES's own, which the package takes whatever step it is given.
        config.attack.step_size = 2 * config.attack.epsilon / config.attack.num_steps
    config.embedding.embed_dim, config.optimizer.learning_rate = 16, 0.1
    config.morel.contrastive_rows, config.morel.contrastive_weight = rows, 0.1
    # The package's own form, LORE_v1, has no pairing.
    config.loss.loat_gamma, config.loss.loat_theta = options.get("loat_gamma", 0.0), 1.0
    losses, state, first = ours(config)
    package_losses_of_steps, network = theirs(config, first, tmp_path, **options)
    np.testing.assert_allclose(losses, package_losses_of_steps, rtol=1e-5)
    got = {name: value.detach().numpy() for name, value in network.named_parameters()}
    got |= {name: value.numpy() for name, value in network.named_buffers()}
    classifier, statistics = state.params["classifier"], state.batch_stats["batch_stats"]
    moved = 0.0
    for number in range(2):
        kernel = np.transpose(classifier[f"conv{number}"]["kernel"], (3, 2, 0, 1))
        np.testing.assert_allclose(kernel, got[f"mod_encoder.conv{number}.weight"], atol=1e-5)
        norm, own = f"mod_encoder.bn{number}.", f"bn{number}"
        np.testing.assert_allclose(classifier[own]["scale"], got[norm + "weight"], atol=1e-5)
        np.testing.assert_allclose(classifier[own]["bias"], got[norm + "bias"], atol=1e-5)
        np.testing.assert_allclose(statistics[own]["mean"], got[norm + "running_mean"], atol=1e-5)
        np.testing.assert_allclose(statistics[own]["var"], got[norm + "running_var"], atol=1e-5)
        moved = max(moved, np.abs(kernel - np.transpose(first.params["classifier"][f"conv{number}"]["kernel"],
                                                        (3, 2, 0, 1))).max())
    for name, layer in (("projection", "feat_layer"), ("out", "attention.out_proj")):
        np.testing.assert_allclose(state.params["embedding"][name]["kernel"].T, got[f"{layer}.weight"], atol=1e-5)
    np.testing.assert_allclose(classifier["head"]["kernel"].T, got["head_classifier.weight"], atol=1e-5)
    assert moved > 1e-3  # A hundred times the tolerance.
