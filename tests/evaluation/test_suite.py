import math

import pytest

from morel_jax.attacks import APGD, PGD, CWLinf
from morel_jax.evaluation.suite import Threat, plan

THREAT = Threat(8 / 255, 0.8 / 255)


def test_the_papers_preset():
    todo = plan(["paper"], THREAT)
    assert list(todo.columns) == ["fgsm", "pgd20", "pgd100", "cw"]
    pgd = todo.entries["pgd100"].attack
    assert pgd.attack == PGD(8 / 255, 0.8 / 255, num_steps=100, start="clean")
    assert pgd.passes == 100
    assert todo.entries["cw"].attack == CWLinf(confidence=1.0, initial_const=15.0, epsilon=8 / 255)
    assert todo.entries["cw"].radius == 8 / 255


def test_the_references_cw_has_no_radius():
    entry = plan(["cw"], Threat(8 / 255, 0.003, variant="reference")).entries["cw"]
    assert entry.attack == CWLinf(confidence=0.0, initial_const=15.0)
    assert entry.radius == math.inf


def test_autoattack_is_one_column_of_four_attacks_and_runs_last():
    todo = plan(["autoattack", "square"], THREAT)
    assert todo.columns["autoattack"] == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert list(todo.entries) == ["square", "apgd-ce", "apgd-t", "fab-t"]
    plus = plan(["autoattack-plus"], THREAT)
    assert list(plus.entries) == ["apgd-cex5", "apgd-dlrx5", "fabx5", "square", "apgd-t", "fab-t"]
    assert plus.entries["apgd-dlrx5"].attack == APGD(8 / 255, loss="dlr", num_restarts=5)


def test_restarts_begin_at_random_points():
    attack = plan(["pgd50x10"], THREAT).entries["pgd50x10"].attack
    assert attack.attack == PGD(8 / 255, 0.8 / 255, num_steps=50, start="uniform", num_restarts=10)
    assert attack.passes == 500


def test_transfer_is_the_papers_four_on_the_surrogate():
    entries = plan(["transfer", "transfer-square"], THREAT).entries
    assert list(entries) == ["transfer-fgsm", "transfer-pgd20", "transfer-pgd100", "transfer-cw", "transfer-square"]
    assert all(entry.transfer for entry in entries.values())
    assert not plan(["fgsm"], THREAT).entries["fgsm"].transfer


@pytest.mark.parametrize(("names", "message"), [
    ([], "attacks must name at least one attack"),
    (["pgd"], r"attacks must be among fgsm, pgd<steps>.*; got 'pgd'"),
    (["pgd0"], "got 'pgd0'"),
    ("fgsm", r"attacks must be a list of names; got the text 'fgsm': write \['fgsm'\]"),
    (["fgsm", "fgsm"], "attacks must name each attack once; got 'fgsm' twice"),
    ([("own", max), ("own", min)], "got 'own' twice"),
    ([("a,b", max)], "an attack's name must consist of letters, digits and . _ . -; got 'a,b'"),
    ([("../a", max)], "got '../a'"),
    (["pgd3000000000"], "steps times restarts of PGD must be at most 2147483647; got attack pgd3000000000"),
    (["transfer-pgd100000x100000"], "got attack pgd100000x100000"),
    (["pgd" + "9" * 5000], "got attack pgd9{37}[.]"),
    (["transfer-bim"], "got 'bim'"),
    (["apgd-ce-eot20"], r"networks that answer at random; call AutoAttack\(version='rand'\)"),
])
def test_errors_name_the_attack(names, message):
    with pytest.raises(ValueError, match=message):
        plan(names, THREAT)


@pytest.mark.parametrize("name", ["fgsm", "pgd20", "cw"])
def test_linf_attacks_refuse_l2(name):
    with pytest.raises(ValueError, match=f"attack {name} is for norm linf; got 'l2'"):
        plan([name], Threat(1.0, 0.1, norm="l2"))
