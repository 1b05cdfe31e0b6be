"""The contenders of ``benchmarks.train_step`` do equal work: the same adversarial images, the same update."""
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from benchmarks import train_step as benchmark
from morel_jax.attacks import PGD
from morel_jax.interop.torch import export_state_dict
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, train_step

N, CLASSES, MODEL = 6, 10, "resnet8"
METHODS = ("trades", "mart", "morel_trades", "morel_mart")
STEPS = ("RedundantStep", "LeanStep")
FORMATS = ("contiguous", "channels_last")


@struct.dataclass
class GivenImages:
    """An attack that was made elsewhere."""
    images: Any

    def __call__(self, logits_fn, key, x, y):
        return self.images


@struct.dataclass
class FromPoint:
    """PGD from a start that was drawn elsewhere."""
    attack: PGD
    start: Any

    def __call__(self, logits_fn, key, x, y):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("morel_jax.attacks.pgd.start_point", lambda *_: self.start)
            return self.attack(logits_fn, key, x, y)


def config_of(method, num_steps):
    config = benchmark.benchmark_config(method, MODEL, N)
    # Gentle, as steps apart by rounding drift apart; but a weight decay that shows.
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 0.05
    config.attack.num_steps = num_steps
    config.data.crop_padding = 0
    config.data.flip = False
    # At its published size the contrastive term would be lost in rounding.
    config.morel.contrastive_weight = 0.1
    return config


def initial(config):
    """(parts, hparams, state) with running statistics as after some training."""
    parts, hparams = build_parts(config, CLASSES), build_hparams(config, epoch=1)
    state = jax.jit(lambda key: create_state(parts, key, (32, 32, 3), hparams, average=False))(jax.random.key(3))
    moved = jax.jit(partial(parts.model.apply, train=True, mutable=["batch_stats"]))(
        state.inference_variables(), jnp.asarray(images_of(5)))[1]["batch_stats"]
    return parts, hparams, state.replace(batch_stats=moved)


def images_of(seed):
    """float32[N, 32, 32, 3]: smooth in place, so that a network tells them apart, and exactly k / 255."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (N, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return ((coarse + rng.integers(0, 256, (N, 32, 32, 3))) // 2).astype(np.float32) / np.float32(255)


def batch_of(seed):
    labels = np.array([0, 1, 1, 2, 0, 7], np.int32)  # 2 and 7 have no positive.
    return Batch(np.round(images_of(seed) * 255).astype(np.uint8), labels, np.arange(N, dtype=np.int32))


def nchw(torch, images):
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())


def torch_step(config, state, kind, memory_format):
    from benchmarks import torch_steps

    weights = jax.tree.map(np.asarray, state.inference_variables())
    embedding = jax.tree.map(np.asarray, state.params.get("embedding"))
    return getattr(torch_steps, kind)(config, CLASSES, export_state_dict(weights, MODEL), embedding,
                                      memory_format=memory_format)


def state_dict_of(step):
    """The PyTorch network's tensors as numpy arrays, without counters."""
    return {name: value.detach().numpy() for name, value in step.network.state_dict().items()
            if not name.endswith("num_batches_tracked")}


@pytest.mark.parity
@pytest.mark.parametrize("method", METHODS)
def test_same_update(method, monkeypatch):
    """Two steps from given adversarial images: weights, momentum, weight decay and running statistics agree.

    Softplus stands in for relu on both sides: rounding that crosses relu's kink at one place changes a gradient by a
    hundredth, in PyTorch's float32 against its float64 as well.
    """
    import torch
    monkeypatch.setattr("morel_jax.models.resnet.relu", jax.nn.softplus)
    monkeypatch.setattr(torch.nn.functional, "relu", torch.nn.functional.softplus)
    config = config_of(method, num_steps=0)
    parts, hparams, first = initial(config)
    adversarial = [np.clip(images_of(i) + np.random.default_rng(9).uniform(-.031, .031, (N, 32, 32, 3)), 0, 1)
                   .astype(np.float32) for i in range(2)]
    compiled, state = jax.jit(partial(train_step, parts=parts)), first
    losses = []
    for i in range(2):
        state, metrics = compiled(state, hparams.replace(attack=GivenImages(adversarial[i])), batch_of(i),
                                  jax.random.key(0))
        losses.append(float(metrics["loss"]))
    before, ours = (export_state_dict(s.inference_variables(), MODEL) for s in (first, state))
    for kind in STEPS:
        for memory_format in FORMATS:
            step = torch_step(config, first, kind, memory_format)
            for i in range(2):
                loss = step.update(nchw(torch, images_of(i)), torch.tensor(batch_of(i).labels).long(),
                                   nchw(torch, adversarial[i]))
                np.testing.assert_allclose(float(loss), losses[i], rtol=2e-5)
            theirs = state_dict_of(step)
            assert theirs.keys() == {name for name in ours if not name.endswith("num_batches_tracked")}
            for name, value in theirs.items():
                check_moved_alike(value, ours[name], before[name], 5e-3, name)
            if step.embedding is not None:
                embeddings = [s.params["embedding"] for s in (state, first)]
                for layer, ours_layer, before_layer in leaves_of(step.embedding, *embeddings):
                    check_moved_alike(layer.detach().numpy(), ours_layer, before_layer, 5e-3, "embedding")


def check_moved_alike(theirs, ours, before, tolerance, name):
    """Both ended in the same place, the distance measured by how far ours went from where both began."""
    moved = np.linalg.norm(ours - before)
    assert moved > 0, name
    apart = np.linalg.norm(theirs - ours)
    # A bias that began at zero, of a part whose gradient is nearly zero, has moved by rounding errors alone.
    assert apart < max(tolerance * moved, 1e-6), (name, apart, moved)


def leaves_of(module, *embeddings):
    """PyTorch's parameter beside ours in its layout, for each layer of the embedding space."""
    for name in ("projection", "qkv", "out", "norm"):
        kernel = "scale" if name == "norm" else "kernel"
        yield getattr(module, name).weight, *(np.asarray(e[name][kernel]).T for e in embeddings)
        yield getattr(module, name).bias, *(np.asarray(e[name]["bias"]) for e in embeddings)


@pytest.mark.parity
@pytest.mark.parametrize("method", ["trades", "mart"])
def test_same_attack_and_step(method):
    """PGD from the same start: nearly every pixel agrees, and the step with it does.

    A gradient near 0 has no certain sign, and what one pixel does moves others' gradients: hence three steps, not
    ten (where float32 and float64 in PyTorch are apart in one pixel of ten). KL's gradients are all near 0 close to
    the clean image: hence a start further from it.
    """
    import torch
    config = config_of(method, num_steps=3)
    parts, hparams, first = initial(config)
    x, batch = images_of(0), batch_of(0)
    start = (x + np.random.default_rng(4).uniform(-0.03, 0.03, x.shape)).astype(np.float32).clip(0, 1)
    variables = first.inference_variables()
    ours = np.asarray(jax.jit(lambda attack: attack(
        lambda images: parts.model.apply(variables, images).logits, jax.random.key(0), x, batch.labels))(
            FromPoint(hparams.attack, start)))
    assert np.mean(np.abs(ours - x) > 0.02) > 0.3  # It went somewhere.
    whole, _ = jax.jit(partial(train_step, parts=parts))(
        first, hparams.replace(attack=FromPoint(hparams.attack, start)), batch, jax.random.key(0))
    before, trained = (export_state_dict(s.inference_variables(), MODEL) for s in (first, whole))
    for kind in STEPS:
        step = torch_step(config, first, kind, "contiguous")
        labels = torch.tensor(batch.labels).long()
        theirs = step.attack(nchw(torch, x), labels, nchw(torch, start)).detach().numpy().transpose(0, 2, 3, 1)
        assert np.abs(theirs - x).max() <= 0.031 + 1e-6
        assert np.mean(np.abs(theirs - ours) < 1e-6) > 0.99
        step.update(nchw(torch, x), labels, nchw(torch, start))
        for name, value in state_dict_of(step).items():
            # The few pixels that differ are felt a little everywhere.
            check_moved_alike(value, trained[name], before[name], 0.05, name)


@pytest.mark.parity
def test_redundant_passes():
    """The forward passes in training mode are the documented ones, in their order."""
    import torch
    for method in METHODS:
        config = config_of(method, num_steps=2)
        _, _, state = initial(config)
        for kind, expected in (("RedundantStep", tuple(config.batch_norm.statistics_from)),
                               ("LeanStep", ("natural", "adversarial"))):
            step = torch_step(config, state, kind, "contiguous")
            x, seen, attacked = nchw(torch, images_of(0)), [], []
            step.network.register_forward_pre_hook(
                lambda module, inputs, x=x, seen=seen, attacked=attacked: (
                    seen if module.training else attacked).append(
                        "natural" if torch.equal(inputs[0], x) else "adversarial"))
            step.update(x, torch.tensor(batch_of(0).labels).long())
            assert tuple(seen) == expected
            clean = ["natural"] * method.endswith("trades")
            again = clean if kind == "RedundantStep" else []
            assert attacked == ["adversarial", *clean, "adversarial", *again]
            assert all(p.requires_grad for p in step.network.parameters())


@pytest.mark.parity
def test_augment_crops_and_flips():
    """Each result is a crop of the padded image, perhaps mirrored; every offset comes up."""
    import torch

    from benchmarks import torch_steps

    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(1, 256, (5, 5, 3), np.uint8)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0))).astype(np.float32) / 255
    crops = {(r, c, f): padded[r:r + 5, c:c + 5][:, ::-1 if f else 1] for r in range(3) for c in range(3)
             for f in (False, True)}
    found = torch_steps.augment(torch.tensor(np.repeat(image[None], 300, 0)), 1, True).numpy().transpose(0, 2, 3, 1)
    which = [[k for k, crop in crops.items() if np.allclose(crop, result)] for result in found]
    assert all(len(k) == 1 for k in which)
    assert {k[0] for k in which} == set(crops)


@pytest.mark.parity
@pytest.mark.parametrize("method", METHODS)
def test_package_step(method, monkeypatch):
    """From the same random start, the package's step and the redundant one have one loss and one update."""
    import torch

    from benchmarks import package_step
    monkeypatch.setattr(torch.nn.functional, "relu", torch.nn.functional.softplus)
    config = config_of(method, num_steps=2)
    config.morel.contrastive_weight = 0.0  # The package also compares adversarial rows.
    _, _, state = initial(config)
    before = export_state_dict(jax.tree.map(np.asarray, state.inference_variables()), MODEL)
    package = package_step.PackageStep(config, CLASSES, before)
    redundant = torch_step(config, state, "RedundantStep", "contiguous")
    if redundant.embedding is not None:  # Its cosine similarities are of projected features.
        package.projection.load_state_dict(redundant.embedding.projection.state_dict())
    x, labels = nchw(torch, images_of(0)), torch.tensor(batch_of(0).labels).long()
    losses = []
    for step in (package, redundant):
        torch.manual_seed(0)
        losses.append(float(step.update(x, labels)))
    np.testing.assert_allclose(*losses, rtol=2e-5)
    theirs = dict(package.network.named_parameters())
    for name, value in redundant.network.named_parameters():
        if not name.startswith("linear") or redundant.embedding is None:  # The package's wrapper has that layer.
            check_moved_alike(theirs[name].detach().numpy(), value.detach().numpy(), before[name], 5e-3, name)


@pytest.mark.parity
def test_unknown_network():
    """A network without a PyTorch counterpart is an error that names those that have one."""
    from benchmarks import torch_steps

    with pytest.raises(ValueError, match=r"resnet18.*got 'resnet50'"):
        torch_steps.ResNet("resnet50", 10)


def test_measure_rotates_and_counts(monkeypatch):
    """Every contender warms up, then runs once a round, after a collection of garbage; each round starts one further.
    """
    calls, collections = [], []
    monkeypatch.setattr("benchmarks.measure.gc.collect", lambda: collections.append(None))
    contenders = [benchmark.Contender(name, {}, lambda steps, name=name: calls.append((name, steps)), lambda: True)
                  for name in "abc"]
    seconds = benchmark.measure(contenders, rounds=4, steps={"a": 2, "b": 3, "c": 4}, warmup_steps=7, settle=0.0)
    assert calls[:3] == [("a", 7), ("b", 7), ("c", 7)]
    assert "".join(name for name, _ in calls[3:]) == "abc" "bca" "cab" "abc"
    assert dict(calls[3:]) == {"a": 2, "b": 3, "c": 4}
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert len(collections) == 12


def test_summary_compares_within_rounds():
    """Ratios are medians of rounds' ratios, against the format with the lower median and the same precision."""
    def contender(name, **options):
        return benchmark.Contender(name, options, None, lambda: True)

    ours = contender("ours, epoch", precision="tf32")
    slow, fast = (contender("torch lean", precision="tf32", memory_format=f) for f in FORMATS)
    narrow = contender("torch lean", precision="bfloat16", memory_format="contiguous")
    seconds = {ours.label: [1.0, 2.0, 4.0], slow.label: [9.0, 9.0, 9.0], fast.label: [3.0, 4.0, 4.0],
               narrow.label: [1.0, 1.0, 1.0]}
    found = benchmark.summarise([ours, slow, fast, narrow], seconds, batch_size=8)[ours.label]
    assert found["images_per_second"] == 4.0
    assert found["to_redundant"] is found["to_package"] is None
    assert found["to_lean"] == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 2.0, 1.0]}


@pytest.mark.parametrize(("argument", "message"), [
    ("--methods=loat", "some of trades,mart"), ("--batch_sizes=0", "at least 1"), ("--steps=1,2,3", "each of 2"),
    ("--rounds=0", "--rounds must be at least 1"), ("--precision=float64", "some of float32,tf32,bfloat16")])
def test_command_line_errors(argument, message, capsys):
    """A wrong option is one line, and status 2."""
    with pytest.raises(SystemExit, match="2"):
        benchmark.parse_arguments([argument])
    assert message in capsys.readouterr().err


def test_package_missing(monkeypatch):
    """Where the authors' package is not, one line says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'morel_jax[parity]'" in benchmark.package_missing()


@pytest.mark.slow
def test_sweep_writes_what_it_measured(tmp_path, capsys):
    """The sweep runs ours alone, at every size."""
    output = tmp_path / "sweep.json"
    benchmark.main(["--sweep_batch_sizes=2,3", "--model=resnet8", "--methods=mart", "--rounds=1", "--steps=1",
                    f"--output={output}"])
    report = json.loads(output.read_text())
    assert [result["batch_size"] for result in report["results"]] == [2, 3]
    for result in report["results"]:
        (contender,) = result["contenders"].values()
        assert contender["name"] == "ours, epoch"
        assert contender["finite"]
        assert len(contender["seconds"]) == 1
        assert result["compilation"]["tf32"]["bytes"]["temp"] > 0
    assert report["environment"]["packages"]["jax"] == jax.__version__
    assert "ours, epoch" in capsys.readouterr().out
