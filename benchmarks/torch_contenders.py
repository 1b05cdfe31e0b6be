"""PyTorch's side of ``benchmarks.train_step``: what runs there, on which device."""
import importlib.util
from functools import partial

import jax

from benchmarks.measure import Contender
from morel_jax.interop.torch import export_state_dict


def torch_device():
    """(device to compare on, None), or (None, why there is none)."""
    try:
        import torch
    except ImportError:
        return None, "PyTorch is not installed."
    if jax.default_backend() == "cpu":
        return torch.device("cpu"), None
    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return torch.device("cuda"), None
    return None, f"JAX runs on {jax.default_backend()}, which this PyTorch ({torch.__version__}) cannot use."


def package_missing():
    """What to install where the authors' package is not, or None."""
    if importlib.util.find_spec("advermorel") is not None:
        return None
    return "advermorel was not compared: it is not installed; pip install 'morel_jax[parity]'."


def _torch_contender(name, step, options, data, rows):
    import torch

    tf32 = options["precision"] != "float32"
    images, labels = torch.tensor(data[0], device=step.device), torch.tensor(data[1], device=step.device).long()
    rows = torch.tensor(rows, device=step.device).long()
    last = torch.zeros(())

    def run(steps):
        nonlocal last
        # On a GPU; a CPU has no such type.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        for i in range(steps):
            last = step(images[rows[i]], labels[rows[i]])
        if step.device.type == "cuda":
            torch.cuda.synchronize()

    return Contender(name, options, run, lambda: bool(torch.isfinite(last)))


def torch_contenders(config, num_classes, weights, device, data, rows, memory_formats, precisions):
    """In every memory format: the package's step, the redundant one, and the lean one in each precision."""
    from benchmarks import package_step, torch_steps

    variables, embedding = weights
    arguments = (config, num_classes, export_state_dict(variables, config.model.name))
    kinds = [("torch redundant", partial(torch_steps.RedundantStep, *arguments, embedding), config.model.precision)]
    kinds += [("torch lean", partial(torch_steps.LeanStep, *arguments, embedding,
                                     dtype="bfloat16" if precision == "bfloat16" else "float32"), precision)
              for precision in precisions]
    if package_missing() is None:
        kinds += [("advermorel", partial(package_step.PackageStep, *arguments), config.model.precision)]
    return [_torch_contender(name, make(device=device, memory_format=memory_format),
                             {"precision": precision, "memory_format": memory_format}, data, rows)
            for name, make, precision in kinds for memory_format in memory_formats]


def settle_torch(threads, seed, device):
    """Before the first step: threads (0: as they come), the seed, and kernels chosen by trying on a GPU."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
