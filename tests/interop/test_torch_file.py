import contextlib
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from morel_jax.interop import torch_file
from morel_jax.interop.torch import export_state_dict, load_checkpoint, save_checkpoint
from tests.interop.test_torch import random_variables

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.zeros((), np.int64)}


def equal(got, want):
    assert set(got) == set(want)
    for key, value in want.items():
        assert got[key].dtype == value.dtype
        np.testing.assert_array_equal(got[key], value)


def test_safetensors_round_trip_without_pytorch(tmp_path):
    path = tmp_path / "model.safetensors"
    variables = random_variables("wide_resnet10_1")
    save_checkpoint(path, variables, "wide_resnet10_1")
    equal(torch_file.read(path), export_state_dict(variables, "wide_resnet10_1"))
    imported = load_checkpoint(path)
    assert imported.name == "wide_resnet10_1"
    jax.tree.map(np.testing.assert_array_equal, imported.variables, variables)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    program = (f"import sys; from morel_jax.interop.torch import load_checkpoint; load_checkpoint({str(path)!r}); "
               "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True)


def test_errors_without_pytorch(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.pt, .*\.safetensors; got 'weights.bin'"):
        torch_file.read("weights.bin")
    with pytest.raises(ValueError, match=r"must end in \.pt"):
        torch_file.write("weights", TENSORS)
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.pt"):
        torch_file.read("nowhere.pt")
    path = tmp_path / "cut.safetensors"
    torch_file.write(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a whole safetensors file"):
        torch_file.read(path)


@pytest.mark.parity
@pytest.mark.parametrize(("wrapped", "key"), [
    (lambda s: s, None), (lambda s: {"state_dict": s, "epoch": 3}, None), (lambda s: {"model_state_dict": s}, None),
    (lambda s: {"net": s, "acc": 51.2}, None), (lambda s: {"model": {"state_dict": s}}, None),
    (lambda s: {"state_dict": {}, "ema_state_dict": s}, "ema_state_dict"),
    (lambda s: {"last": {"state_dict": s}, "best": {}}, "last"), (lambda s: {"a": {"b": s}}, "a.b"),
])
def test_wrapped_state_dicts(tmp_path, wrapped, key):
    import torch

    path = tmp_path / "checkpoint.pt"
    torch.save(wrapped({name: torch.from_numpy(value) for name, value in TENSORS.items()}), path)
    equal(torch_file.read(path, key), TENSORS)


@pytest.mark.parity
@pytest.mark.parametrize(("content", "key", "message"), [
    ({"model": {}, "net": {}}, None, "key must choose among model, net"),
    ({"epoch": 3, "best": 0.5}, None, "no state dict is under .* there are epoch, best"),
    ({"epoch": 3}, "ema", "key must name an entry of the file; got 'ema', and there are epoch"),
    ([1, 2], None, "as there is a list"),
])
def test_files_without_a_state_dict(tmp_path, content, key, message):
    import torch

    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        torch_file.read(path, key)


@pytest.mark.parity
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_pytorch_reads(tmp_path, zipped, protocol):
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.Adam(network.parameters())
    optimizer.step()
    numbers = torch.arange(24.0).reshape(2, 3, 4)
    views = {"transposed": numbers.transpose(0, 2), "part": numbers[1:, ::2], "bool": numbers > 3,
             "int": torch.tensor(3), "none": torch.zeros(0, 3), "parameter": torch.nn.Parameter(numbers),
             "complex": numbers * 1j}
    beside = {"optimizer": optimizer.state_dict(), "sizes": numbers.shape, "device": numbers.device, "rows": {1, 2},
              "type": numbers.dtype, "bytes": b"abc", "large": 2**70, "number": 1j, "rest": (None, [0.5, "ü"])}
    for number, content in enumerate((views, {"state_dict": network.state_dict(), **beside})):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        want = content.get("state_dict", content)
        equal(torch_file.read(path), {name: value.detach().numpy() for name, value in want.items()})


@pytest.mark.parity
def test_unusual_tensors_are_named(tmp_path):
    import torch

    with pytest.warns():  # PyTorch warns that the quantised and nested ones are not final.
        made = {"sparse": torch.eye(3).to_sparse(), "sparse rows": torch.eye(3).to_sparse_csr(),
                "meta": torch.zeros(3, device="meta"), "nested": torch.nested.nested_tensor([torch.ones(1)]),
                "quantised": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
                "of a type like float8": torch.zeros(3).to(torch.float8_e4m3fn),
                "an object of": torch._neg_view(torch.ones(3))}
    for kind, tensor in made.items():
        torch.save({"state_dict": {"conv1.weight": tensor}}, tmp_path / "odd.pt")
        with pytest.raises(ValueError, match=f"'conv1.weight' must be a dense tensor; got one that is {kind[:6]}"):
            load_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parity
def test_narrow_types_are_widened(tmp_path):
    import torch

    path = tmp_path / "half.pt"
    values = torch.tensor([1.0, 1 / 3, -2.5])
    torch.save({"bf16": values.bfloat16(), "f16": torch.nn.Parameter(values.half()), "f64": values.double()}, path)
    back = torch_file.read(path)
    np.testing.assert_array_equal(back["bf16"], values.bfloat16().float().numpy())
    np.testing.assert_array_equal(back["f16"], values.half().float().numpy())
    assert back["f64"].dtype == np.float64


class Payload:
    """What a malicious file holds: reading it with pickle runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parity
@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_a_malicious_file_is_refused_and_not_run(tmp_path, form):
    import torch

    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    if form == "zip":
        torch.save({"state_dict": {"conv1.weight": Payload(marker)}}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pt cannot be read as tensors and plain values, and nothing else"):
        load_checkpoint(path)
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):  # The payload would have worked.
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parity
def test_a_damaged_file(tmp_path):
    import torch

    path = tmp_path / "cut.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.pt cannot be read"):
        torch_file.read(path)
