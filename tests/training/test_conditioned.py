"""One network for every preference: trained, judged at several, resumed."""
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import builders, evaluation, training
from morel_jax.configuration import check
from morel_jax.methods import METHODS, Views
from morel_jax.training.interruption import Interrupted
from morel_jax.training.setup import build_hparams
from tests.small import interrupt_after, tiny_config, tiny_dataset, without_clocks
from tests.training.steps import still

PARTS = dict(dataset=tiny_dataset())


def objective_of(config, preference, views, labels):
    hparams = build_hparams(config, epoch=1).replace(preference=jnp.asarray(preference))
    value, _ = METHODS[config.method].objective(config)(views, labels, hparams)
    return value


@pytest.mark.parametrize("scalarization", ["conic", "weighted_sum"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equal_preferences_are_the_one_preference(scalarization, reduction):
    """And the mean of the values is the value where examples differ, as each term is weighed by its own example."""
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    views = Views(draw(8, 4), draw(8, 4), draw(8, 6), draw(8, 6), draw(8, 6), draw(8, 6))
    labels = jnp.asarray(random.integers(0, 4, 8))
    options = dict(morel__scalarization=scalarization, morel__contrastive_reduction=reduction,
                   morel__contrastive_weight=0.1, morel__augmentation=0.01, morel__reference_point=(0.1, 0.2))
    plain, conditioned = still(**options), still(morel__conditioned=True, **options)
    for k in (0.2, 0.7):
        both = np.float32([k, 1 - k])
        np.testing.assert_allclose(objective_of(conditioned, np.tile(both, (8, 1)), views, labels),
                                   objective_of(plain, both, views, labels), rtol=1e-5)
    mixed = np.float32([[0.2, 0.8]] * 4 + [[0.7, 0.3]] * 4)
    # Linear in the preferences: the value lies where the weights of each example put it.
    ends = [objective_of(conditioned, np.tile(np.float32(pair), (8, 1)), views, labels) for pair in mixed[[0, 4]]]
    swapped = objective_of(conditioned, mixed[::-1], views, labels)
    np.testing.assert_allclose(objective_of(conditioned, mixed, views, labels) + swapped, sum(ends), rtol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditioned")
    config = tiny_config("morel_trades", embedding__embed_dim=8, morel__conditioned=True)
    return folder, config, training.fit(config, folder, progress=False, **PARTS)


@pytest.mark.slow
def test_its_slopes_are_trained_and_it_is_judged_at_any_preference(run):
    folder, _, (state, history) = run
    slopes = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params["classifier"])
              if "slope" in jax.tree_util.keystr(path)]
    assert slopes
    assert all(np.any(leaf != 0) for leaf in slopes)
    images = PARTS["dataset"].test.images / np.float32(255)
    logits = {k: evaluation.load(folder, "last", preference=k)[0](images) for k in (None, 0.5, 0.1, 0.9)}
    np.testing.assert_array_equal(logits[None], logits[0.5])
    assert np.abs(logits[0.1] - logits[0.9]).max() > 1e-4
    assert history[-1]["clean_accuracy"] == np.mean(np.argmax(logits[0.5], -1) == PARTS["dataset"].test.labels)
    # What is loaded is the plain network.
    model = evaluation.trained.load_trained(folder, "last").model
    assert model == builders.model(tiny_config("morel_trades"), 10).clone(**{
        name: getattr(model, name) for name in ("mean", "std")})


@pytest.mark.slow
def test_interrupted_and_resumed_it_is_bitwise_the_same(run, monkeypatch, tmp_path):
    _, config, (state, history) = run
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(Interrupted):
            training.fit(config, tmp_path, progress=False, **PARTS)
    resumed, lines = training.fit(config, tmp_path, progress=False, **PARTS)
    chex.assert_trees_all_equal(jax.device_get(resumed), jax.device_get(state))
    assert without_clocks(lines) == without_clocks(history)


@pytest.mark.slow
def test_a_member_of_a_population_is_the_run_alone(run, tmp_path):
    _, config, (state, _) = run
    member, other = training.fit_population(config, [{"morel.preference_range": (0.1, 0.9)},
                                                     {"morel.preference_range": (0.4, 0.6)}],
                                            tmp_path, progress=False, **PARTS)
    chex.assert_trees_all_close(member.state.params, jax.device_get(state.params), atol=1e-5)
    assert np.any(member.state.params["embedding"]["out"]["kernel"] != other.state.params["embedding"]["out"]["kernel"])


@pytest.mark.slow
def test_a_preference_that_cannot_be(run, tmp_path):
    folder, config, _ = run
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\]; got 1.5"):
        evaluation.load(folder, "last", preference=1.5)
    for changes, message in (
            (dict(morel__preference_range=(0.9, 0.1)), r"preference_range must be \(lowest, highest\)"),
            (dict(morel__scalarization="mgda"), "morel.conditioned must be False with .*scalarization mgda")):
        with pytest.raises(ValueError, match=message):
            check(tiny_config(morel__conditioned=True, **changes))
    with pytest.raises(ValueError, match=r"morel\.conditioned must be False for a network of your own"):
        check(config, own_model=object())
    with pytest.raises(ValueError, match=r"config\.morel\.preference must not be swept with morel\.conditioned"):
        training.fit_population(config, [{"preference": 0.2}, {"preference": 0.3}], tmp_path, **PARTS)
