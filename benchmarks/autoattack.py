"""Command: ``python -m benchmarks.autoattack --workdir=runs/quickstart/morel``: AutoAttack, ours against the authors'.

AutoAttack ``standard`` on the same trained weights and the same test images, in turn: ours through
``morel_jax.evaluation.evaluate``, ledger and judge included, and the authors' PyTorch code (``pyautoattack``). The
images are cut into rounds; each round runs both, the other one first each time. Our programs are compiled before, on a
few images, and the time that XLA's compiler took is stated apart; with ``--no-warm_up``, for networks whose attacks
take minutes for few images, they are compiled within the first round. PyTorch's network is in inference mode, its
weights need no gradients, and its best memory format and batch size are for the caller to find
(``--torch_batch_size``, ``--torch_memory_format``).
"""
import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
from pyautoattack import AutoAttack

from benchmarks.measure import OtherPrograms, environment, ratio
from benchmarks.torch_convnet import convnet_small
from benchmarks.torch_steps import MEMORY_FORMATS, ResNet
from morel_jax.evaluation import evaluate
from morel_jax.evaluation.evaluator import block_width
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.interop.torch import export_state_dict

_COMPILE_IMAGES = 4
_HARMLESS = 1e-4  # A radius at which every attack runs to its end.
_COMPILED = "/jax/core/compile/backend_compile_duration"


class _Logits(torch.nn.Module):
    """A network that also gives features, as one that gives logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[1]


def torch_network(config, variables, num_classes):
    """The PyTorch twin of a trained network, in inference mode and without gradients of its weights.

    Args:
        config: of the run.
        variables: of the classifier.
        num_classes: logits.

    Returns:
        Module, float32[n, channels, height, width] -> logits.
    """
    name = config.model.name
    state = {key: torch.from_numpy(value) for key, value in export_state_dict(variables, name).items()}
    if name == "convnet_small":
        return convnet_small(state)
    network = ResNet(name, num_classes, channels=state["conv1.weight"].shape[1])
    network.load_state_dict(state)
    return _Logits(network).eval().requires_grad_(False)


def run_torch(network, images, labels, epsilon, batch_size, memory_format):
    """AutoAttack in PyTorch; returns (robust bool[n], seconds).

    Args:
        network: from :func:`torch_network`.
        images: float32[n, h, w, c] in [0, 1].
        labels: int[n].
        epsilon: radius, Linf.
        batch_size, memory_format: of PyTorch.
    """
    network = network.to(memory_format=MEMORY_FORMATS[memory_format])
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=MEMORY_FORMATS[memory_format])
    y = torch.from_numpy(labels).long()
    began = time.perf_counter()
    attack = AutoAttack(network, eps=epsilon, norm="Linf", version="standard", seed=0, device="cpu")
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        return (network(x_adv).argmax(1) == y).numpy(), seconds


def run_ours(logits_fn, images, labels, epsilon, width=None):
    """AutoAttack through the whole evaluation, in blocks of ``width`` rows; returns (robust bool[n], seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        evaluate(logits_fn, images, labels, ["autoattack"], folder, epsilon=epsilon, width=width)
        seconds = time.perf_counter() - began
        robust = np.ones(len(labels), bool)
        for line in (Path(folder) / "ledger.csv").read_text().splitlines()[1:]:
            _, index, _, _, broken, *_ = line.split(",")
            robust[int(index)] &= broken == "0"
    return robust, seconds


def _images(dataset, count, size):
    images = dataset.test.images[:count].astype(np.float32) / 255
    grown = size - images.shape[1]
    if grown:  # The border of these images is black.
        before, after = grown // 2, grown - grown // 2
        images = np.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))
    return images, np.asarray(dataset.test.labels[:count], np.int32)


def main(argv):
    """Runs, prints and writes the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="a run's folder")
    parser.add_argument("--which", default="last")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2, help="into which the images are cut")
    parser.add_argument("--epsilon", type=float, help="by default the config's")
    parser.add_argument("--size", type=int, default=0, help="pad the images to this height and width")
    parser.add_argument("--warm_up", action=argparse.BooleanOptionalAction, default=True,
                        help="compile before the rounds")
    parser.add_argument("--width", type=int, help="rows of our blocks; by default what suits the network")
    parser.add_argument("--torch_batch_size", type=int, default=250)
    parser.add_argument("--torch_memory_format", default="contiguous", choices=MEMORY_FORMATS)
    parser.add_argument("--output", help="JSON file")
    flags = parser.parse_args(argv)

    logging.disable(logging.WARNING)  # The authors' code logs each batch.
    model, variables, config, dataset = load_variables(flags.workdir, flags.which)
    logits_fn = as_logits_fn(model, variables)
    epsilon = flags.epsilon or config.validation.epsilon
    images, labels = _images(dataset, flags.examples, flags.size or dataset.test.images.shape[1])
    network = torch_network(config, variables, dataset.num_classes)
    others = OtherPrograms()

    correct = np.argmax(logits_fn(images), -1) == labels
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event == _COMPILED else None)
    if flags.warm_up:
        first = np.flatnonzero(correct)[:_COMPILE_IMAGES]
        run_ours(logits_fn, images[first], labels[first], _HARMLESS, flags.width)

    seconds, robust = {"ours": [], "torch": []}, {"ours": [], "torch": []}
    for number, part in enumerate(np.array_split(np.arange(len(labels)), flags.rounds)):
        contenders = {
            "ours": lambda part=part: run_ours(logits_fn, images[part], labels[part], epsilon, flags.width),
            "torch": lambda part=part: run_torch(network, images[part], labels[part], epsilon, flags.torch_batch_size,
                                                 flags.torch_memory_format)}
        for name in sorted(contenders, reverse=number % 2 == 1):
            survived, took = contenders[name]()
            seconds[name].append(took)
            robust[name].append(survived)
            print(f"round {number + 1}, {name}: {took:.1f} s, robust accuracy {100 * survived.mean():.2f} % "
                  f"of {len(part)} images", file=sys.stderr)
    robust = {name: np.concatenate(parts) for name, parts in robust.items()}
    result = {
        "network": config.model.name, "epsilon": epsilon, "images": len(labels), "shape": images.shape[1:],
        "clean_accuracy": float(correct.mean()),
        "robust_accuracy": {name: float(values.mean()) for name, values in robust.items()},
        "robust_only_under": {"ours": int((robust["ours"] & ~robust["torch"]).sum()),
                              "torch": int((robust["torch"] & ~robust["ours"]).sum())},
        "seconds": seconds, "compile_seconds": statistics.fsum(compiled),
        "times_as_fast": ratio(seconds["ours"], seconds["torch"]),
        "compiled_within_rounds": not flags.warm_up, "width": flags.width or block_width(logits_fn, images.shape[1:]),
        "torch_batch_size": flags.torch_batch_size, "torch_memory_format": flags.torch_memory_format,
        "environment": environment("python -m benchmarks.autoattack " + " ".join(
            flag for flag in argv if not flag.startswith(("--workdir", "--output")))),
    }
    result["environment"]["processors_used_by_others"] = others.used()
    print(json.dumps({key: result[key] for key in ("robust_accuracy", "robust_only_under", "compile_seconds")}))
    with_compilation = statistics.fsum(seconds["ours"]) + (result["compile_seconds"] if flags.warm_up else 0)
    print(f"times as fast as PyTorch: {result['times_as_fast']['median']:.2f} (rounds "
          f"{[round(value, 2) for value in result['times_as_fast']['rounds']]}; all, with compilation, "
          f"{statistics.fsum(seconds['torch']) / with_compilation:.2f})")
    if flags.output:
        Path(flags.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
