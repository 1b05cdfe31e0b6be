"""convnet_small, whose hidden layer takes a flattened image; the other layouts are in test_torch.py."""
import jax
import numpy as np
import pytest

from morel_jax import models
from morel_jax.interop.torch import export_state_dict, import_model, import_state_dict


@pytest.mark.parametrize(("size", "channels", "width"), [((28, 28), 1, 16), ((8, 12), 3, 4)])
def test_flattened_images(size, channels, width):
    images = jax.random.uniform(jax.random.key(0), (2, *size, channels))
    model = models.create("convnet_small", 5, width=width)
    variables = model.init(jax.random.key(1), images)
    state = export_state_dict(variables, "convnet_small")
    height, across = size[0] // 4, size[1] // 4
    hidden = state["hidden.weight"].reshape(8 * width, 2 * width, height, across)
    kernel = variables["params"]["hidden"]["kernel"].reshape(height, across, 2 * width, 8 * width)
    np.testing.assert_array_equal(hidden, kernel.transpose(3, 2, 0, 1))
    back = import_state_dict(state)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    imported = import_model(state)
    assert (imported.name, imported.model.width) == ("convnet_small", width)
    np.testing.assert_array_equal(imported.model.apply(imported.variables, images).logits,
                                  model.apply(variables, images).logits)


def test_a_hidden_layer_that_fits_no_image():
    variables = models.create("convnet_small", 5, width=4).init(jax.random.key(1), np.zeros((1, 8, 8, 1), np.float32))
    state = export_state_dict(variables, "convnet_small")
    state["hidden.weight"] = state["hidden.weight"][:, :-1]
    with pytest.raises(ValueError, match=r"'hidden.weight' must have shape \(32, 24\) .* got \(32, 31\)"):
        import_state_dict(state)
