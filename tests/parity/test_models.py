"""Models, layers and the embedding space against PyTorch."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from morel_jax import models
from morel_jax.interop.torch import export_state_dict, import_model, import_state_dict
from morel_jax.models import resnet
from morel_jax.models.batch_norm import BatchNorm
from morel_jax.models.preact_resnet import PreActivationBottleneck
from morel_jax.models.wide_resnet import PreActivationBlock
from tests.models import quick_jit
from tests.parity.torch_networks import (
    NETWORKS,
    TorchPreActResNet,
    channels_first,
    images,
    torch_network,
)

nn = torch.nn
F = torch.nn.functional
pytestmark = pytest.mark.parity


def close(got, want, tolerance):
    """Largest difference, relative to the largest value wanted."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-3)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """Name, PyTorch's network, and its weights as our variables."""
    network = torch_network(request.param)
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    return request.param, network, import_state_dict(state, request.param)


@pytest.mark.parametrize("train", [False, True])
def test_logits_and_running_statistics(case, train):
    name, network, variables = case
    network = copy.deepcopy(network).train(train)
    apply = quick_jit(models.create(name, 10).apply, static_argnames=("train", "mutable"))
    outputs, updates = apply(variables, images(), train=train, mutable=("batch_stats",))
    with torch.no_grad():
        assert np.abs(outputs.logits - network(channels_first(images())).numpy()).max() < 1e-4
    after = export_state_dict(variables | updates, name)
    for key, tensor in network.state_dict().items():
        if not key.startswith("sub_block1") and not key.endswith("num_batches_tracked"):
            close(after[key], tensor, 1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_gradients(case, train, monkeypatch):
    # Where rounding takes an activation over relu's kink, gradients jump, in PyTorch between float32 and float64
    # as much as here; hence a smooth function in relu's place, in both.
    monkeypatch.setattr(resnet, "relu", jax.nn.softplus)
    for block in (PreActivationBlock, PreActivationBottleneck):
        monkeypatch.setattr(block, "activation", staticmethod(jax.nn.softplus))
    monkeypatch.setattr(F, "relu", F.softplus)
    name, network, variables = case
    network = copy.deepcopy(network).train(train)
    model = models.create(name, 10)
    labels = np.arange(4) % 10

    @quick_jit
    def gradients(params, x):
        def loss(params, x):
            outputs, _ = model.apply(variables | {"params": params}, x, train=train, mutable=["batch_stats"])
            log_p = jax.nn.log_softmax(outputs.logits)
            return -jnp.take_along_axis(log_p, labels[:, None], 1).sum()
        return jax.grad(loss, (0, 1))(params, x)

    got, x_got = gradients(variables["params"], images())
    x = channels_first(images()).requires_grad_()
    F.cross_entropy(network(x), torch.from_numpy(labels), reduction="sum").backward()
    close(x_got, x.grad.numpy().transpose(0, 2, 3, 1), 1e-3)
    got = export_state_dict({"params": got, "batch_stats": variables["batch_stats"]}, name)
    for key, parameter in network.named_parameters():
        if not key.startswith("sub_block1"):
            close(got[key], parameter.grad, 1e-3)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet16_2"])
def test_images_of_64_pixels(name):
    network = torch_network(name).eval()
    x = images(2, 64)
    logits = quick_jit(models.create(name, 10).apply)(import_state_dict(network.state_dict(), name), x).logits
    with torch.no_grad():
        assert np.abs(logits - network(channels_first(x)).numpy()).max() < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_export_loads_into_pytorch(name):
    network = torch_network(name)
    variables = import_state_dict(network.state_dict(), name)
    exported = {key: torch.from_numpy(tensor) for key, tensor in export_state_dict(variables, name).items()}
    fresh = NETWORKS[name]()
    missing, unexpected = fresh.load_state_dict(exported, strict=False)
    assert unexpected == []
    assert all(key.startswith("sub_block1") for key in missing)
    for key, tensor in network.state_dict().items():
        if key in exported:
            assert torch.equal(fresh.state_dict()[key], tensor)


def test_kuangliu_s_preactivation_networks_end_without_batch_norm():
    torch.manual_seed(0)
    network = TorchPreActResNet((3, 3), (2, 2, 2, 2), final_norm=False).eval()
    name, model, variables = import_model(network.state_dict(), "preact_resnet18")
    assert (name, model.final_norm) == ("preact_resnet18", False)
    with torch.no_grad():
        want = network(channels_first(images())).numpy()
    assert np.abs(quick_jit(model.apply)(variables, images()).logits - want).max() < 1e-4
    back = export_state_dict(variables, name)
    network.load_state_dict({key: torch.from_numpy(tensor) for key, tensor in back.items()}, strict=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_values_are_distributed_alike(name):
    torch.manual_seed(0)
    ours = export_state_dict(quick_jit(models.create(name, 10).init)(jax.random.key(0), images(1)), name)
    theirs = NETWORKS[name]().state_dict()
    assert set(ours) == {key for key in theirs if not key.startswith("sub_block1")}
    for key, tensor in ours.items():
        want = theirs[key].numpy()
        assert tensor.dtype == want.dtype
        if np.ptp(want) == 0:
            np.testing.assert_array_equal(tensor, want)
        elif tensor.size > 400:
            error = 6 / tensor.size**0.5
            np.testing.assert_allclose(tensor.std(), want.std(), rtol=error)
            np.testing.assert_allclose(tensor.mean(), want.mean(), atol=error * want.std())
            if not name.startswith("wide"):  # Uniform, so the largest value shows the bound.
                np.testing.assert_allclose(np.abs(tensor).max(), np.abs(want).max(), rtol=0.03)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm(train):
    rng = np.random.default_rng(0)
    x, ct = (rng.normal(2, 3, (4, 5, 6, 7)).astype(np.float32) for _ in range(2))
    scale, bias, mean = (rng.normal(size=7).astype(np.float32) for _ in range(3))
    var = rng.uniform(0.5, 2, 7).astype(np.float32)
    theirs = nn.BatchNorm2d(7).train(train)
    theirs.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in dict(
        weight=scale, bias=bias, running_mean=mean, running_var=var).items()}, strict=False)
    x_torch = channels_first(x).requires_grad_()
    y_torch = theirs(x_torch)
    y_torch.backward(channels_first(ct))

    def ours(x, scale, bias):
        return BatchNorm(not train).apply(
            {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}, x,
            mutable=["batch_stats"])

    y, transpose, updates = jax.vjp(ours, x, scale, bias, has_aux=True)
    close(y, y_torch.detach().numpy().transpose(0, 2, 3, 1), 1e-5)
    close(updates["batch_stats"]["mean"], theirs.running_mean, 1e-6)
    close(updates["batch_stats"]["var"], theirs.running_var, 1e-6)
    for got, want in zip(transpose(ct), (x_torch.grad.numpy().transpose(0, 2, 3, 1), theirs.weight.grad,
                                         theirs.bias.grad), strict=True):
        close(got, want, 1e-4)


def test_embedding_space():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(12, 20)).astype(np.float32), np.array([0, 1, 2, 0, 0, 1, 3, 2, 0, 4, 1, 0])
    linear, norm = nn.Linear(20, 128), nn.LayerNorm(128, eps=1e-6)
    attention = nn.MultiheadAttention(128, 2, batch_first=True)
    with torch.no_grad():
        for parameter in (*norm.parameters(), attention.in_proj_bias, attention.out_proj.bias):
            parameter += 0.3 * torch.randn_like(parameter)

    s_torch = linear(torch.from_numpy(z))
    t_torch = torch.zeros_like(s_torch)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        group = norm(s_torch[rows])[None]
        t_torch[rows] = s_torch[rows] + attention(group, group, group)[0][0]
    (t_torch**2).sum().backward()

    def layer(weight, bias):
        return {"kernel": weight.detach().numpy().T, "bias": bias.detach().numpy()}

    params = {"projection": layer(linear.weight, linear.bias),
              "norm": {"scale": norm.weight.detach().numpy(), "bias": norm.bias.detach().numpy()},
              "qkv": layer(attention.in_proj_weight, attention.in_proj_bias),
              "out": layer(attention.out_proj.weight, attention.out_proj.bias)}
    space = models.EmbeddingSpace()

    def loss(params):
        s, t = space.apply({"params": params}, z, labels)
        return jnp.sum(t**2), (s, t)

    gradient, (s, t) = quick_jit(jax.grad(loss, has_aux=True))(params)
    close(s, s_torch.detach(), 1e-5)
    close(t, t_torch.detach(), 1e-5)
    close(gradient["projection"]["kernel"], linear.weight.grad.numpy().T, 1e-4)
    close(gradient["norm"]["scale"], norm.weight.grad, 1e-4)
    close(gradient["qkv"]["kernel"], attention.in_proj_weight.grad.numpy().T, 1e-4)
    close(gradient["qkv"]["bias"], attention.in_proj_bias.grad, 1e-4)
    close(gradient["out"]["kernel"], attention.out_proj.weight.grad.numpy().T, 1e-4)

    # Initial values: the same bounds.
    initial = quick_jit(space.init)(jax.random.key(0), z, labels)["params"]
    fresh, head = nn.MultiheadAttention(128, 2), nn.Linear(20, 128)
    for ours, theirs in ((initial["projection"]["kernel"], head.weight), (initial["projection"]["bias"], head.bias),
                         (initial["qkv"]["kernel"], fresh.in_proj_weight),
                         (initial["out"]["kernel"], fresh.out_proj.weight)):
        np.testing.assert_allclose(np.abs(ours).max(), theirs.detach().abs().max(), rtol=0.1)
        np.testing.assert_allclose(ours.std(), theirs.detach().std(), rtol=0.25)
    for ours, theirs in ((initial["qkv"]["bias"], fresh.in_proj_bias), (initial["out"]["bias"], fresh.out_proj.bias)):
        np.testing.assert_array_equal(ours, theirs.detach())
