import json

import pytest

from morel_jax.evaluation.dry_run import dry_run_evaluation
from morel_jax.evaluation.evaluator import block_width
from tests.commands import call
from tests.small import small_config


def test_wrong_attacks_and_flags(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="must be given attacks that are crafted on the network itself; got transfer-"):
        dry_run_evaluation(small_config(), ["transfer-fgsm"])
    with pytest.raises(ValueError, match="attacks must be among"):
        dry_run_evaluation(small_config(), ["pgd"])
    for flags in ([], ["--config=quickstart", f"--workdir={tmp_path}"]):
        status, _, error = call(monkeypatch, "evaluate", "--dry_run", *flags)
        assert (status, error) == (2, "error: --dry_run must be given either --workdir or --config.\n")
    status, _, error = call(monkeypatch, "evaluate", "--config=quickstart", f"--workdir={tmp_path}")
    assert (status, error) == (2, "error: --config must come with --dry_run; a run has its own.\n")
    status, _, error = call(monkeypatch, "evaluate", "--dry_run", f"--workdir={tmp_path}")
    assert (status, error) == (2, f"error: no config.json in {tmp_path}: not a run's folder.\n")


@pytest.mark.slow
def test_a_program_for_each_attack():
    found = dry_run_evaluation(small_config(), ["pgd20", "apgd-ce"])
    pgd, apgd = found.programs["pgd20"], found.programs["apgd-ce"]
    # An attack of one call is one step: its 20 iterations are in it.
    assert pgd.kernels.step > 20 * pgd.kernels.attack_iteration > 0
    assert apgd.kernels.attack_iteration is None
    assert pgd.flops == pytest.approx(20 * apgd.flops, rel=0.05)
    assert pgd.batch_size == apgd.batch_size == 16
    whole = json.loads(json.dumps(found.to_dict()))
    assert set(whole["programs"]) == {"pgd20", "apgd-ce"}
    assert whole["kernels"]["step"] == pgd.kernels.step + apgd.kernels.step == sum(whole["kernels"]["by_kind"].values())
    assert whole["peak_bytes"] == max(pgd.peak, apgd.peak)
    assert whole["flops"] == pgd.flops + apgd.flops
    assert found.to_text().count("operations") == 2


def test_an_accelerator_has_wider_blocks():
    """By the device that is compiled for, and not by the one at hand."""
    class Absent:
        platform = "gpu"

    assert block_width(lambda x: x.sum((1, 2)), (8, 8, 1), Absent()) == 256
