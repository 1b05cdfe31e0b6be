import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import APGD, FAB, MALT, PMA, APGDTargeted, AutoAttack, FABTargeted, GuardedSquare, Square
from tests.attacks.linear import Linear
from tests.small import mostly_slow


def test_versions_have_the_published_attacks_in_their_order():
    standard = AutoAttack(0.1).members()
    assert list(standard.values()) == [APGD(0.1, 100, loss="ce"), APGDTargeted(0.1, 100, 9), FABTargeted(0.1, 100, 9),
                                       Square(0.1, 5000, p_init=0.8)]
    plus = AutoAttack(0.1, version="plus", norm="l2").members()
    assert list(plus.values()) == [
        APGD(0.1, norm="l2", num_restarts=5), APGD(0.1, loss="dlr", norm="l2", num_restarts=5),
        FAB(0.1, norm="l2", num_restarts=5), Square(0.1, norm="l2"), APGDTargeted(0.1, norm="l2"),
        FABTargeted(0.1, norm="l2")]
    rand = AutoAttack(0.1, version="rand").members()
    assert list(rand.values()) == [APGD(0.1, eot=20), APGD(0.1, loss="dlr", eot=20)]
    fast = AutoAttack(0.1, version="fast").members()
    assert list(fast.values()) == [PMA(0.1, 100, num_restarts=2), MALT(0.1, num_targets=3), GuardedSquare(0.1)]
    custom = AutoAttack(0.1, version="custom", attacks=("square", "apgd-dlr")).members()
    assert list(custom) == ["square", "apgd-dlr"]


@pytest.mark.parametrize("norm", mostly_slow(["linf", "l2"], "linf"))
def test_breaks_exactly_what_a_linear_model_allows(norm):
    model = Linear(count=24)
    distances = model.distances(norm)
    epsilon = float(np.median(distances))
    attack = AutoAttack(epsilon, version="custom", norm=norm, attacks=("apgd-ce", "apgd-t", "fab-t"))
    x_adv = np.asarray(jax.jit(lambda x, y: attack(model.logits, jax.random.key(0), x, y))(model.x, model.y))
    broken = np.argmax(model.logits(x_adv), -1) != model.y
    clear = np.abs(distances / epsilon - 1) > 0.005
    np.testing.assert_array_equal(broken[clear], (distances < epsilon)[clear])
    np.testing.assert_array_equal(x_adv[~broken], model.x[~broken])


def test_an_attack_leaves_alone_what_the_one_before_broke():
    """The image that counts is the first attack's: the same as if it had run alone."""
    model = Linear(count=12)
    epsilon = float(np.median(model.distances("linf")))
    call = lambda *names: np.asarray(jax.jit(lambda x: AutoAttack(epsilon, version="custom", attacks=names)(  # noqa: E731
        model.logits, jax.random.key(0), x, model.y))(model.x))
    alone, both = call("apgd-ce"), call("apgd-ce", "square")
    broken = np.argmax(model.logits(alone), -1) != model.y
    assert broken.any()
    np.testing.assert_array_equal(both[broken], alone[broken])


def test_random_networks_are_called_with_keys():
    model = Linear(count=12)
    epsilon = 1.5 * float(model.distances("linf").max())

    def noisy(x, keys):
        return model.logits(x) + 0.1 * jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)

    attack = AutoAttack(epsilon, version="rand")
    x_adv = jax.jit(lambda x, y: attack(noisy, jax.random.key(0), x, y))(model.x, model.y)
    assert (jnp.argmax(model.logits(x_adv), -1) != model.y).mean() > 0.9


@pytest.mark.parametrize(("attack", "message"), [
    (AutoAttack(0.1, version="quick"), "version must be one of standard, plus, rand, fast, custom; got 'quick'"),
    (AutoAttack(0.1, version="custom"), "attacks must name at least one attack for version 'custom'"),
    (AutoAttack(0.1, attacks=("fab",)), "attacks are for version 'custom' alone"),
    (AutoAttack(0.1, version="custom", attacks=("pgd",)), "AutoAttack's attacks are apgd-ce, .*; got 'pgd'"),
    (AutoAttack(0.1, norm="l1"), "norm must be one of linf, l2; got 'l1'"),
])
def test_errors(attack, message):
    with pytest.raises(ValueError, match=message):
        attack.members()
