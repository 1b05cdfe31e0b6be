"""Runs with more epochs, and runs that begin with another's weights."""
import functools

import chex
import pytest

from morel_jax import data
from morel_jax.training import fit, fit_population
from morel_jax.training.beginning import read_network
from morel_jax.training.workdir import load_content
from tests.small import tiny_config, tiny_dataset, without_clocks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_data")]
light_config = functools.partial(tiny_config, "standard", batch_norm__statistics_from=("natural",))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs that keeps an average."""
    folder = tmp_path_factory.mktemp("trained")
    fit(light_config(ema_decay=0.5), folder, progress=False, dataset=tiny_dataset())
    return folder


def test_more_epochs_end_as_if_they_had_been_asked_for_at_once(tmp_path, capsys):
    changes = dict(optimizer__drop_epochs=(2,), optimizer__drop_factors=(0.5,))
    state, history = fit(light_config(epochs=3, **changes), tmp_path / "at_once", progress=False)
    fit(light_config(**changes), tmp_path / "run", progress=False)
    again, more = fit(light_config(epochs=3, checkpoint__every_seconds=9.0, validation__batch_size=20, **changes),
                      tmp_path / "run", progress="epochs")
    chex.assert_trees_all_equal(again, state)
    assert without_clocks(more) == without_clocks(history)
    assert "resumed with config.checkpoint.every_seconds 9.0 in place of 600.0, config.epochs 3 in place of 2" \
        in capsys.readouterr().err


def test_a_run_begins_with_anothers_weights(trained, tmp_path, capsys):
    """Its method, data, classes and average are others; at rate 0 the weights stay what they began as."""
    whole = tiny_dataset()
    split = data.Split(whole.train.images, whole.train.labels % 3)
    dataset = data.Dataset("three", split, split, 3, ("a", "b", "c"))
    config = tiny_config(epochs=1, optimizer__learning_rate=0.0, swa_first_epoch=1)
    begin = functools.partial(fit, config, tmp_path / "run", dataset=dataset, init_from=trained, init_which="last")
    state, history = begin(progress="epochs")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("begins with"))
    assert line.startswith(f"begins with {trained} (last, step 12): ")
    assert line.endswith("; fresh: linear/bias, linear/kernel, the embedding space, the optimiser")
    source = read_network(trained, "last").variables["params"]
    for params, rounding in ((state.params["classifier"], 0), (state.average["params"], 1e-6)):
        assert params["linear"]["kernel"].shape[-1] == 3
        for name in source.keys() - {"linear"}:
            chex.assert_trees_all_close(params[name], source[name], rtol=rounding)
    assert load_content(tmp_path / "run")["init_from"] == {"workdir": str(trained), "which": "last"}
    # The same command resumes, and reads its own checkpoint.
    assert begin(progress=False)[1] == history
    with pytest.raises(ValueError, match=r"init_from: \{'workdir': .*, 'which': 'last'\} there, None"):
        fit(config, tmp_path / "run", progress=False, dataset=dataset)


def test_the_members_of_a_sweep_begin_with_anothers_weights(trained, tmp_path, capsys):
    """As each does alone; a resumption reads their own checkpoints, and its folder may hold no other beginning."""
    config = light_config(epochs=1)
    begin = functools.partial(fit_population, config, [{"seed": 3}, {"seed": 4}], tmp_path / "sweep", progress="epochs",
                              init_from=trained)
    members = begin()
    assert capsys.readouterr().err.count("begins with") == 1
    state, _ = fit(light_config(epochs=1, seed=4), tmp_path / "alone", progress=False, init_from=trained)
    chex.assert_trees_all_equal(members[1].state.params, state.params)
    assert load_content(tmp_path / "sweep" / "seed=3")["init_from"] == {"workdir": str(trained), "which": "best"}
    assert [one.history for one in begin()] == [one.history for one in members]
    with pytest.raises(ValueError, match=r"init_from: \{'workdir': .*, 'which': 'best'\} there, None"):
        fit_population(config, [{"seed": 3}, {"seed": 4}], tmp_path / "sweep", progress=False)


def test_a_beginning_that_does_not_fit_is_refused_before_anything_is_written(trained, tmp_path):
    for source, changes, message in (
            (trained, dict(model__name="resnet8_half"), f"config.model.name must be that of the run to begin with, "
             f"convnet_small in {trained}; got resnet8_half."),
            (tmp_path, {}, f"no config.json in {tmp_path}: not a run's folder."),
            ("gs://a", {}, "init_from must be a path on a mounted file system, not a URL; got 'gs://a'.")):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            fit(light_config(**changes), tmp_path / "run", progress=False, init_from=source)
        assert str(error.value) == message
        assert not (tmp_path / "run").exists()
