import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.interop.torch import (
    export_state_dict,
    import_model,
    import_state_dict,
    load_checkpoint,
    save_checkpoint,
)


def random_variables(name, num_classes=10, channels=3):
    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    shapes = jax.eval_shape(models.create(name, num_classes).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture(scope="module")
def resnet():
    variables = random_variables("resnet8")
    return variables, export_state_dict(variables, "resnet8")


@pytest.mark.parametrize(("name", "num_classes", "channels"), [("resnet8", 7, 1), ("wide_resnet10_2", 10, 3)])
def test_round_trip_bit_for_bit(name, num_classes, channels):
    variables = random_variables(name, num_classes, channels)
    state = export_state_dict(variables, name)
    back = import_state_dict(state, name)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    again = export_state_dict(back, name)
    assert set(again) == set(state)
    for key, tensor in state.items():
        assert tensor.flags["OWNDATA"]
        assert tensor.flags["C_CONTIGUOUS"]
        assert tensor.dtype == again[key].dtype
        np.testing.assert_array_equal(again[key], tensor)


def test_layout_of_resnets(resnet):
    variables, state = resnet
    params, stats = variables["params"], variables["batch_stats"]
    assert state["conv1.weight"].shape == (16, 3, 3, 3)
    np.testing.assert_array_equal(state["layer1.0.conv2.weight"][3, 5, 0, 2],
                                  params["layer1_0"]["conv2"]["kernel"][0, 2, 5, 3])
    np.testing.assert_array_equal(state["layer2.0.shortcut.0.weight"][3, 5, 0, 0],
                                  params["layer2_0"]["shortcut_conv"]["kernel"][0, 0, 5, 3])
    np.testing.assert_array_equal(state["layer2.0.shortcut.1.running_var"],
                                  stats["layer2_0"]["shortcut_bn"]["var"])
    np.testing.assert_array_equal(state["bn1.weight"], params["bn1"]["scale"])
    np.testing.assert_array_equal(state["linear.weight"], params["linear"]["kernel"].T)
    count = state["layer3.0.bn2.num_batches_tracked"]
    assert (count.dtype, count.shape, count) == (np.int64, (), 0)


def test_layout_of_wide_resnets():
    variables = random_variables("wide_resnet16_2")
    state = export_state_dict(variables, "wide_resnet16_2")
    block = variables["params"]["block2_1"]
    np.testing.assert_array_equal(state["block2.layer.1.bn2.bias"], block["bn2"]["bias"])
    np.testing.assert_array_equal(state["block2.layer.1.conv1.weight"][3, 5, 0, 2],
                                  block["conv1"]["kernel"][0, 2, 5, 3])
    assert state["block1.layer.0.convShortcut.weight"].shape == (32, 16, 1, 1)
    assert state["fc.weight"].shape == (10, 128)
    unused = {"sub_block1.layer.0.conv1.weight": np.zeros((32, 16, 3, 3))}
    back = import_state_dict(state | unused, "wide_resnet16_2")
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_prefix_of_data_parallel_is_dropped_and_memory_is_copied(resnet):
    variables, state = resnet
    wrapped = {f"module.{key}": tensor.copy() for key, tensor in state.items()}
    back = import_state_dict(wrapped, "resnet8")
    for tensor in wrapped.values():
        tensor[...] = 9
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda s: s.pop("layer2.0.bn1.weight"), {}, r"'layer2.0.bn1.weight' of shape \(32,\) is missing"),
    (lambda s: s.pop("linear.weight"), {}, r"'linear.weight' of shape .* is missing"),
    (lambda s: s.update(extra=np.zeros((2, 3))), {}, r"'extra' of shape \(2, 3\) is unexpected"),
    (lambda s: s.update({"layer1.0.conv1.weight": np.zeros((16, 16, 1, 1))}), {},
     r"'layer1.0.conv1.weight' must have shape \(16, 16, 3, 3\) in resnet8; got \(16, 16, 1, 1\)"),
    (lambda s: None, dict(num_classes=5), r"'linear.bias' must have shape \(5,\) in resnet8; got \(10,\)"),
    (lambda s: None, dict(name="vit"), "PyTorch layout; got 'vit'"),
])
def test_errors_of_import(resnet, change, options, message):
    state = dict(resnet[1])
    change(state)
    with pytest.raises(ValueError, match=message):
        import_state_dict(state, **dict(name="resnet8") | options)


@pytest.mark.parametrize(("mean", "std", "message"), [
    ((0.5,), (0.5,), "each of the 3 channels"), ((125.3,) * 3, (63.0,) * 3, r"mean must be in \[0, 1\]"),
    ((np.nan,) * 3, (0.5,) * 3, r"mean must be in \[0, 1\]"), ((0.5,) * 3, (np.inf,) * 3, "std must be positive"),
    ((0.5,) * 3, None, "mean and std go together")])
def test_normalisation_that_is_none(resnet, mean, std, message):
    with pytest.raises(ValueError, match=message):
        import_model(resnet[1], mean=mean, std=std)
    with pytest.raises(ValueError, match=message):
        export_state_dict(resnet[0], "resnet8", mean=mean, std=std)


def test_paths_of_the_user(tmp_path, monkeypatch, resnet):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_checkpoint("~/model.safetensors", resnet[0], "resnet8")
    assert (tmp_path / "model.safetensors").is_file()
    assert load_checkpoint("~/model.safetensors").name == "resnet8"
    for path in ("gs://bucket/model.pt", ""):
        with pytest.raises(ValueError, match="path must"):
            load_checkpoint(path)
        with pytest.raises(ValueError, match="path must"):
            save_checkpoint(path, resnet[0], "resnet8")


def test_errors_of_export(resnet):
    with pytest.raises(ValueError, match=r"variables: 'layer1.1.bn1.* of shape \(16,\) is missing; resnet14"):
        export_state_dict(resnet[0], "resnet14")
