import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from morel_jax.attack_names import ATTACKS, ENSEMBLES, GROUPS, NamedAttack, find, known
from morel_jax.attacks.autoattack import MEMBERS, VERSIONS, member
from morel_jax.attacks.iterative import IterativeAttack
from morel_jax.evaluation import suite

# One name for each entry.
NAMES = [re.sub(r"<\w+>", "2", entry.name) for entry in ATTACKS]


def traced(name, norm, classes):
    """The shape of what an attack makes of images, without any check of the registry's."""
    entry, numbers = find(name)
    attack = entry.build(suite.attacks, suite.Threat(0.1, 0.01, norm, loss=lambda logits, y: logits[:, 0]), *numbers)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    x, y = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)

    def network(x):
        return jnp.zeros((len(x), classes))

    if not isinstance(attack, IterativeAttack):
        return jax.eval_shape(lambda keys, x, y: attack(network, keys, x, y), keys, x, y).shape
    return jax.eval_shape(lambda keys, x, y: attack.advance(network, keys, x, y, attack.first(network, keys, x, y)),
                          keys, x, y).x_adv.shape


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_works_in_its_norms_with_as_few_classes_as_it_says(name):
    entry, _ = find(name)
    for norm in entry.norms:
        assert traced(name, norm, entry.fewest_classes) == (2, 8, 8, 1)
    if entry.fewest_classes > 2:
        with pytest.raises(ValueError, match="classes"):
            traced(name, entry.norms[0], entry.fewest_classes - 1)


def test_what_the_names_of_several_stand_for_is_known():
    assert all(find(name.removeprefix("transfer-")) for _, names in GROUPS.values() for name in names)
    for text, version in ENSEMBLES.values():
        assert all(find(name) and name in text for name in VERSIONS[version])
    for name in MEMBERS:
        entry, numbers = find(name)
        assert entry.build(suite.attacks, suite.Threat(0.1, 0.01, "l2"), *numbers) == member(name, 0.1, "l2")


def test_numbers_are_read_from_names():
    assert find("pgd20") == (ATTACKS[1], [20])
    assert find("pgd50x10") == (ATTACKS[2], [50, 10])
    assert [find(name) for name in ("pgd", "pgd0", "pgd5x", "pgd020", "apgd-ce2", "autoattack")] == [None] * 6


def test_a_new_attack_is_one_entry(monkeypatch):
    entry = NamedAttack("half<steps>", "half a step", lambda attacks, threat, steps: attacks.FGSM(threat.epsilon / 2),
                        fewest_classes=3)
    monkeypatch.setattr("morel_jax.attack_names.ATTACKS", (*ATTACKS, entry))
    _, attacks = suite.build_suite(["half7", "transfer-half2"], suite.Threat(0.1, 0.01, "l2"))
    assert list(attacks) == ["half7", "transfer-half2"]
    assert known()["half<steps>"] == "half a step"
    with pytest.raises(ValueError, match="attack half7 needs a network with at least 3 classes; got 2"):
        suite.build_suite(["half7"], suite.Threat(0.1, 0.01), classes=2)


def test_help_lists_the_attacks_without_jax():
    code = "import sys, runpy; sys.argv = ['evaluate', '--help']\n" \
        "try: runpy.run_module('morel_jax.evaluate', run_name='__main__', alter_sys=True)\n" \
        "except SystemExit: print('jax' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.stdout.splitlines()[-1] == "False", outcome.stderr
    for name in known():
        assert f"- {name}: " in outcome.stdout
