"""Folders in the layout of CIFAR-10-C, and a stand-in for the package that computes corruptions."""
import types

import numpy as np

from morel_jax.data.corruptions import CORRUPTIONS, SEVERITIES


def corrupt(image, severity, corruption_name, seed=None):
    """Darkens by the severity, and adds noise from NumPy's global generator, as the package draws it."""
    assert image.shape[0] >= 32
    assert image.shape[1] >= 32
    assert image.shape[2] == 3
    assert (seed is not None) == (corruption_name in ("impulse_noise", "glass_blur"))
    noise = np.random.randint(0, 50, image.shape)  # noqa: NPY002
    return np.clip(image.astype(int) - 10 * severity + noise, 0, 255).astype(np.uint8)


def stand_in():
    """A module like ``imagecorruptions``."""
    module = types.ModuleType("imagecorruptions")
    module.corrupt, module.get_corruption_names = corrupt, lambda subset: [*CORRUPTIONS, "spatter"]
    return module


def write(folder, images, labels, names=CORRUPTIONS):
    """Each corruption is the image, with ``10 s`` added to all of its pixels (modulo 256) at severity s."""
    np.save(folder / "labels.npy", np.tile(labels, SEVERITIES))
    stacked = np.concatenate([images + np.uint8(10 * severity) for severity in range(1, SEVERITIES + 1)])
    for name in names:
        np.save(folder / f"{name}.npy", stacked)
    return stacked
