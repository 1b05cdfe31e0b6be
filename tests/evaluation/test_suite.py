import math

import pytest

from morel_jax.attacks import APGD, FAB, FMN, PGD, CWLinf
from morel_jax.evaluation.suite import Threat, build_suite

THREAT = Threat(8 / 255, 0.8 / 255)


def test_the_papers_preset():
    columns, attacks = build_suite(["paper"], THREAT)
    assert list(columns) == ["fgsm", "pgd20", "pgd100", "cw"]
    pgd = attacks["pgd100"].attack
    assert pgd.attack == PGD(8 / 255, 0.8 / 255, num_steps=100, start="clean")
    assert pgd.passes == 100
    assert attacks["cw"].attack == CWLinf(confidence=1.0, initial_const=15.0, epsilon=8 / 255)
    assert attacks["cw"].radius == 8 / 255


def test_the_references_cw_has_no_radius():
    entry = build_suite(["cw"], Threat(8 / 255, 0.003, variant="reference"))[1]["cw"]
    assert entry.attack == CWLinf(confidence=0.0, initial_const=15.0)
    assert entry.radius == math.inf


def test_autoattack_is_one_column_of_four_attacks_and_runs_last():
    columns, attacks = build_suite(["autoattack", "square"], THREAT)
    assert columns["autoattack"] == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert list(attacks) == ["square", "apgd-ce", "apgd-t", "fab-t"]
    _, plus = build_suite(["autoattack-plus"], THREAT)
    assert list(plus) == ["apgd-cex5", "apgd-dlrx5", "fabx5", "square", "apgd-t", "fab-t"]
    assert plus["apgd-dlrx5"].attack == APGD(8 / 255, loss="dlr", num_restarts=5)


def test_restarts_begin_at_random_points():
    attack = build_suite(["pgd50x10"], THREAT)[1]["pgd50x10"].attack
    assert attack.attack == PGD(8 / 255, 0.8 / 255, num_steps=50, start="uniform", num_restarts=10)
    assert attack.passes == 500


def test_draws_and_an_own_loss_are_in_the_names():
    columns, attacks = build_suite(["autoattack-rand", "pgd20x2-eot5", "fgsm-eot3", "malt3-eot4"], THREAT)
    assert columns["autoattack-rand"] == ("apgd-ce-eot20", "apgd-dlr-eot20")
    assert attacks["apgd-dlr-eot20"].attack == APGD(8 / 255, loss="dlr", eot=20)
    assert (attacks["pgd20x2-eot5"].attack.attack.eot, attacks["pgd20x2-eot5"].attack.passes) == (5, 200)
    assert (attacks["fgsm-eot3"].attack.attack.eot, attacks["malt3-eot4"].attack.passes) == (3, 4)
    threat = Threat(8 / 255, 0.8 / 255, loss=max)
    _, own = build_suite(["pgd20-loss", "pgd5x2-loss", "apgd-loss-eot3"], threat)
    assert own["pgd20-loss"].attack.attack == PGD(8 / 255, 0.8 / 255, 20, "clean", loss=max)
    assert own["pgd5x2-loss"].attack.attack == PGD(8 / 255, 0.8 / 255, 5, loss=max, num_restarts=2)
    assert own["apgd-loss-eot3"].attack == APGD(8 / 255, loss=max, eot=3)


def test_transfer_is_the_papers_four_on_the_surrogate():
    _, attacks = build_suite(["transfer", "transfer-square"], THREAT)
    assert list(attacks) == ["transfer-fgsm", "transfer-pgd20", "transfer-pgd100", "transfer-cw", "transfer-square"]
    assert all(attack.on_surrogate for attack in attacks.values())
    assert not build_suite(["fgsm"], THREAT)[1]["fgsm"].on_surrogate


def test_minimum_norm_attacks_have_no_ball():
    columns, attacks = build_suite(["minimal", "fab-t", ("own", FMN()), ("bounded", FAB(0.1))], THREAT)
    assert list(columns) == ["fmn-t", "fab-t-minimal", "fab-t", "own", "bounded"]
    assert {name for name, one in attacks.items() if one.minimal} == {"fmn-t", "fab-t-minimal", "own"}
    assert all(one.radius == 8 / 255 for one in attacks.values())
    _, others = build_suite(["fmn", "ddn", "cw-l2"], Threat(0.5, 0.1, "l2"))
    assert all(one.minimal and one.attack.norm == "l2" for one in others.values())
    with pytest.raises(ValueError, match="attack ddn is for norm l2; got 'linf'"):
        build_suite(["ddn"], THREAT)


@pytest.mark.parametrize(("names", "message"), [
    ([], "attacks must name at least one attack"),
    (["pgd"], r"attacks must be among paper, .*fgsm, pgd<steps>.*; got 'pgd'"),
    (["pgd0"], "got 'pgd0'"),
    ("fgsm", r"attacks must be a list of names; got the text 'fgsm': write \['fgsm'\]"),
    (["fgsm", "fgsm"], "attacks must name each attack once; got 'fgsm' twice"),
    ([("own", max), ("own", min)], "got 'own' twice"),
    ([("a,b", max)], "an attack's name must consist of letters, digits and . _ . -; got 'a,b'"),
    ([("../a", max)], "got '../a'"),
    (["pgd3000000000"], "an attack's steps times restarts must be at most 2147483647; got pgd3000000000"),
    (["transfer-pgd100000x100000"], "got pgd100000x100000"),
    (["pgd" + "9" * 5000], "got pgd9{37}[.]"),
    (["transfer-bim"], "got 'bim'"),
    (["pgd20-eot1"], "got 'pgd20-eot1'"),
    (["pgd100000x1000-eot100"], "times restarts times draws must be at most 2147483647; got pgd100000x1000-eot100"),
    (["square-eot5"], "-eot5 must follow the name of an attack that averages gradients, fgsm, pgd, .*; got square"),
    ([("pgd9-eot2", max)], "a custom attack needs a name of its own; got 'pgd9-eot2'"),
    (["pgd20-loss"], "attacks of a name with -loss climb a loss of your own, --loss .*; got none"),
])
def test_errors_name_the_attack(names, message):
    with pytest.raises(ValueError, match=message):
        build_suite(names, THREAT)


def test_a_linf_attack_refuses_l2():
    with pytest.raises(ValueError, match="attack cw is for norm linf; got 'l2'"):
        build_suite(["cw"], Threat(1.0, 0.1, norm="l2"))


@pytest.mark.parametrize("name", ["fgsm", "pgd20", "pgd20x2"])
def test_the_threats_norm_is_the_attacks(name):
    _, suite = build_suite([name], Threat(1.0, 0.1, norm="l2"))
    assert suite[name].attack.attack.norm == "l2"
