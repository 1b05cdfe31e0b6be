import jax
import numpy as np
import pytest

from morel_jax import models
from morel_jax.interop.layouts import detect, layout, split
from morel_jax.interop.torch import export_state_dict, import_model, import_state_dict
from tests.interop.test_torch import random_variables
from tests.models import quick_jit

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def shapes_of(name):
    """PyTorch's names -> arrays without memory of their own."""
    sizes = {f"{head}.weight": (7, 0) for head in ("fc", "linear", "logits")}
    sizes |= {f"{stem}.weight": (0, 3) for stem in ("conv1", "init_conv", "conv_2d")} | {"bn.weight": (512,)}
    return {key: np.broadcast_to(np.float32(0), tensor.shape) for key, tensor in layout(name, sizes).items()}


@pytest.mark.parametrize("name", [
    "resnet8_half", "resnet18", "wide_resnet10_1", "wide_resnet16_10", "wide_resnet16_10_silu",
    *(pytest.param(f"preact_resnet{one}", marks=pytest.mark.slow) for one in ("18", "34", "50", "18_silu", "34_silu")),
])
def test_detect(name):
    assert detect(shapes_of(name)) == name
    assert detect({f"module.{key}": value for key, value in shapes_of(name).items()}) == name


def test_every_resnet_is_known():
    known = {name for name in models._MODELS if name.startswith("resnet")}
    for name in known:
        model = models.create(name, 1)
        stages = {f"layer{stage + 1}.{i}.conv1.weight": np.zeros(1)
                  for stage, size in enumerate(model.stage_sizes) for i in range(size)}
        if model.block.expansion == 4:
            stages["layer1.0.conv3.weight"] = np.zeros(1)
        stem = (model.widths[0], 3, 2 + model.stem_stride, 2 + model.stem_stride)
        stages |= {"conv1.weight": np.zeros(stem), "bn1.weight": np.zeros(1), "linear.weight": np.zeros((1, 1))}
        assert detect(stages) == name


@pytest.mark.parametrize("prefixes", ["module.", "model.", "module.basic_net.", "module.model.", "_orig_mod.", "1."])
def test_prefixes_one_inside_the_other(prefixes):
    tensors, normalisation = split({f"{prefixes}{key}": key for key in ("conv1.weight", "layer1.0.bn1.bias")})
    assert tensors == {"conv1.weight": "conv1.weight", "layer1.0.bn1.bias": "layer1.0.bn1.bias"}
    assert normalisation == (None, None)


def test_a_prefix_of_some_names_only_stays():
    assert set(split({"module.a": 0, "b": 0})[0]) == {"module.a", "b"}


@pytest.mark.parametrize(("mean", "std", "prefix"), [
    ("mu", "sigma", ""), ("module.mu", "module.sigma", "module."), ("mean", "std", "model."),
    ("normalize.mean", "normalize.std", "model."), ("module.normalize.mean", "module.normalize.std", "module.model."),
    ("normalizer.new_mean", "normalizer.new_std", "model."), ("0.mean", "0.std", "1.")])
def test_normalisation_goes_into_the_model(mean, std, prefix):
    variables = random_variables("resnet8")
    state = {prefix + key: value for key, value in export_state_dict(variables, "resnet8").items()}
    state |= {mean: np.float32(MEAN).reshape(1, 3, 1, 1), std: np.float32(STD).reshape(1, 3, 1, 1)}
    imported = import_model(state)
    np.testing.assert_allclose((imported.model.mean, imported.model.std), (MEAN, STD), rtol=1e-6)
    with pytest.raises(ValueError, match=r"normalises images with mean .* use import_model"):
        import_state_dict(state)
    with pytest.raises(ValueError, match=r"mean must be None where the state dict has its own"):
        import_model(state, mean=MEAN, std=STD)
    # And back, bit for bit.
    again = export_state_dict(imported.variables, "resnet8", mean=imported.model.mean, std=imported.model.std)
    np.testing.assert_array_equal(again["mu"], state[mean])
    np.testing.assert_array_equal(again["sigma"], state[std])


def test_normalisation_that_the_file_lacks():
    state = export_state_dict(random_variables("resnet8"), "resnet8")
    model = import_model(state, mean=MEAN, std=STD).model
    assert (model.mean, model.std) == (MEAN, STD)
    with pytest.raises(ValueError, match="mean and std go together"):
        import_model(state, mean=MEAN)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("bn1.weight"), "this is a PreActResNet without 'bn.weight'.*name such as 'preact_resnet18'"),
    (lambda s: s.pop("linear.weight"), "cannot be told from the tensors"),
    (lambda s: s.clear(), "first tensors here: none"),
    (lambda s: s.update({"layer2.1.conv1.weight": np.zeros(1)}), r"has 1 \+ 2 \+ 1 basic blocks"),
    (lambda s: s.update(mu=np.zeros(3)), "'mu' and 'sigma'; got 'mu' alone"),
])
def test_networks_that_are_not_known(change, message):
    state = shapes_of("resnet8")
    change(state)
    with pytest.raises(ValueError, match=message):
        detect(state)


def test_layout_of_deepmind_s_wide_resnets():
    name = "wide_resnet10_1_silu"
    variables = random_variables(name)
    state = export_state_dict(variables, name, mean=MEAN, std=STD)
    block = variables["params"]["block3_0"]
    np.testing.assert_array_equal(state["layer.2.block.0.batchnorm_1.bias"], block["bn2"]["bias"])
    np.testing.assert_array_equal(state["layer.2.block.0.conv_0.weight"][3, 5, 0, 2],
                                  block["conv1"]["kernel"][0, 2, 5, 3])
    assert state["layer.1.block.0.shortcut.weight"].shape == (32, 16, 1, 1)
    assert {key for key in state if not key.startswith("layer.")} == {
        "init_conv.weight", "logits.weight", "logits.bias", *(f"batchnorm.{tensor}" for tensor in (
            "weight", "bias", "running_mean", "running_var", "num_batches_tracked"))}  # No mean and std: arguments.
    jax.tree.map(np.testing.assert_array_equal, import_state_dict(state), variables)
    with pytest.raises(ValueError, match="mean and std must be given for wide_resnet10_1_silu: PyTorch's class"):
        import_model(state)
    assert import_model(state, mean=MEAN, std=STD).model.mean == MEAN
    with pytest.raises(ValueError, match=r"sub_block1 must be False .*got True for 'wide_resnet10_1_silu'"):
        export_state_dict(variables, name, sub_block1=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preact_resnet18", "preact_resnet18_silu"])
def test_layout_of_preactivation_networks(name):
    variables = random_variables(name)
    state = export_state_dict(variables, name)
    block = variables["params"]["layer2_0"]
    stem, first, norm, shortcut = {
        "preact_resnet18": ("conv1", "layer2.0.conv1", "layer2.0.bn2", "layer2.0.shortcut.0"),
        "preact_resnet18_silu": ("conv_2d", "layer_1.0.conv_2d_1", "layer_1.0.batchnorm_1", "layer_1.0.shortcut")}[name]
    np.testing.assert_array_equal(state[f"{stem}.weight"][3, 1, 0, 2],
                                  variables["params"]["conv1"]["kernel"][0, 2, 1, 3])
    np.testing.assert_array_equal(state[f"{first}.weight"][3, 5, 0, 2], block["conv1"]["kernel"][0, 2, 5, 3])
    np.testing.assert_array_equal(state[f"{norm}.bias"], block["bn2"]["bias"])
    np.testing.assert_array_equal(state[f"{shortcut}.weight"][3, 5, 0, 0],
                                  block["conv_shortcut"]["kernel"][0, 0, 5, 3])
    jax.tree.map(np.testing.assert_array_equal, import_state_dict(state), variables)


@pytest.mark.parametrize(("size", "channels", "width"), [((28, 28), 1, 16), ((8, 12), 3, 4)])
def test_flattened_images(size, channels, width):
    """convnet_small, whose hidden layer takes a flattened image; the other layouts are in test_torch.py."""
    images = jax.random.uniform(jax.random.key(0), (2, *size, channels))
    model = models.create("convnet_small", 5, width=width)
    variables = quick_jit(model.init)(jax.random.key(1), images)
    state = export_state_dict(variables, "convnet_small")
    height, across = size[0] // 4, size[1] // 4
    hidden = state["hidden.weight"].reshape(8 * width, 2 * width, height, across)
    kernel = variables["params"]["hidden"]["kernel"].reshape(height, across, 2 * width, 8 * width)
    np.testing.assert_array_equal(hidden, kernel.transpose(3, 2, 0, 1))
    back = import_state_dict(state)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    imported = import_model(state)
    assert (imported.name, imported.model.width) == ("convnet_small", width)
    np.testing.assert_array_equal(quick_jit(imported.model.apply)(imported.variables, images).logits,
                                  quick_jit(model.apply)(variables, images).logits)


def test_a_hidden_layer_that_fits_no_image():
    init = quick_jit(models.create("convnet_small", 5, width=4).init)
    variables = init(jax.random.key(1), np.zeros((1, 8, 8, 1), np.float32))
    state = export_state_dict(variables, "convnet_small")
    state["hidden.weight"] = state["hidden.weight"][:, :-1]
    with pytest.raises(ValueError, match=r"'hidden.weight' must have shape \(32, 24\) .* got \(32, 31\)"):
        import_state_dict(state)
