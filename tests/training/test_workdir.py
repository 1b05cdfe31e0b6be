import json

import pytest

from morel_jax.files import DamagedFileError
from morel_jax.training.saved import CheckpointError
from morel_jax.training.workdir import MetricsWriter, load_config, load_divergence, open_sweep, open_workdir
from tests.small import small_config


def test_config_comes_back_as_it_was(tmp_path):
    config = small_config()
    folder = open_workdir(config, tmp_path / "a" / "b")
    assert load_config(folder).to_dict() == config.to_dict()
    content = json.loads((folder / "config.json").read_text())
    assert content["versions"]["jax"]
    assert "commit" in content
    open_workdir(config, folder)


def begun(folder, finished=0, steps_more=0, steps=6):
    """A last checkpoint's record in a run's folder: epochs finished, and steps of the next one."""
    history = [{"step": (epoch + 1) * steps} for epoch in range(finished)]
    record = folder / "checkpoints" / "last" / str(finished * steps + steps_more + finished) / "record"
    record.mkdir(parents=True)
    (record / "metadata").write_text(json.dumps({"history": history, "best": 0.0, "seconds": 0.0}))
    return folder


def changes_of(folder):
    return json.loads((folder / "config.json").read_text())["changes"]


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    begun(open_workdir(small_config(), tmp_path), steps_more=1)
    with pytest.raises(ValueError, match=f"another workdir \\(there --init_from={tmp_path} begins with") as error:
        open_workdir(small_config(seed=9, morel__preference=(0.3, 0.7)), tmp_path)
    assert "config.seed: 0 there, 9 given" in str(error.value)
    assert "config.morel.preference: (0.1, 0.9) there, (0.3, 0.7) given" in str(error.value)
    assert "batch_size" not in str(error.value)


def test_where_nothing_was_trained_yet_any_config_is_taken(tmp_path):
    open_workdir(small_config(), tmp_path)
    open_workdir(small_config(seed=9), tmp_path, write=False)
    assert load_config(tmp_path).seed == 0
    open_workdir(small_config(seed=9), tmp_path)
    assert load_config(tmp_path).seed == 9


def test_where_things_lie_and_how_often_they_are_saved_may_change(tmp_path):
    begun(open_workdir(small_config(), tmp_path), finished=1)
    said = []
    given = small_config(data__cache_dir="/elsewhere", mesh__fsdp=2, checkpoint__every_seconds=5.0,
                         validation__batch_size=4)
    open_workdir(given, tmp_path, write=False)
    assert load_config(tmp_path).mesh.fsdp == 1
    open_workdir(given, tmp_path, say=said.append)
    assert load_config(tmp_path).to_dict() == given.to_dict()
    assert said == ["resumed with config.checkpoint.every_seconds 5.0 in place of 600.0, config.data.cache_dir "
                    "'/elsewhere' in place of '', config.mesh.fsdp 2 in place of 1, config.validation.batch_size 4 in "
                    "place of 16"]
    open_workdir(given, tmp_path, say=said.append)
    open_workdir(small_config(**{"mesh__fsdp": 1}), tmp_path)
    assert [sorted(changes) for changes in changes_of(tmp_path)] == [
        ["checkpoint.every_seconds", "data.cache_dir", "mesh.fsdp", "validation.batch_size"]] * 2
    assert len(said) == 1


@pytest.mark.parametrize(("changes", "refused"), [
    (dict(epochs=9), ""),
    (dict(epochs=3), ""),  # Fewer than it began with, and those that are begun.
    (dict(epochs=9, optimizer__drop_epochs=(4, 5), optimizer__drop_factors=(0.1, 0.01)), ""),
    (dict(epochs=2), "config.epochs: 4 there, 2 given (3 epochs are begun or finished)"),
    (dict(optimizer__drop_epochs=(3,), optimizer__drop_factors=(0.1,)), "config.optimizer.drop_epochs: (75, 90) there, "
     "(3,) given (epoch 3 was trained with a rate of 0.01, which would be 0.001)"),
    (dict(optimizer__learning_rate=0.1), "config.optimizer.learning_rate: 0.01 there, 0.1 given"),
    (dict(batch_size=8), "config.batch_size: 16 there, 8 given"),
    (dict(validation__examples=8), "config.validation.examples: 0 there, 8 given"),
])
def test_epochs_may_change_where_those_begun_keep_their_rates(tmp_path, changes, refused):
    begun(open_workdir(small_config(epochs=4), tmp_path), finished=2, steps_more=1)
    given = small_config(**{"epochs": 4, **changes})
    if refused:
        with pytest.raises(ValueError, match="another config") as error:
            open_workdir(given, tmp_path)
        assert f"  {refused}" in str(error.value).splitlines()
        assert load_config(tmp_path).to_dict() == small_config(epochs=4).to_dict()
    else:
        open_workdir(given, tmp_path)
        assert load_config(tmp_path).to_dict() == given.to_dict()


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "cyclic"])
def test_a_schedule_over_all_epochs_keeps_their_number(tmp_path, schedule):
    begun(open_workdir(small_config(epochs=4, optimizer__schedule=schedule), tmp_path), finished=2)
    with pytest.raises(ValueError, match=r"config\.epochs: 4 there, 9 given \(epoch \d was trained with a rate of 0"):
        open_workdir(small_config(epochs=9, optimizer__schedule=schedule), tmp_path)


def test_the_newest_record_that_can_be_read_counts(tmp_path):
    begun(begun(open_workdir(small_config(epochs=4), tmp_path), finished=1), finished=3)
    path = tmp_path / "checkpoints" / "last" / "21" / "record" / "metadata"
    path.write_text("{")
    open_workdir(small_config(epochs=2), tmp_path)
    (tmp_path / "checkpoints" / "last" / "7" / "record" / "metadata").write_text("{")
    with pytest.raises(CheckpointError, match="last/7 is damaged"):
        open_workdir(small_config(epochs=5), tmp_path)


def test_ones_own_files_may_lie_elsewhere(tmp_path):
    begun(open_workdir(small_config(data__name="folder:/a"), tmp_path), finished=1)
    open_workdir(small_config(data__name="folder:/b"), tmp_path)
    assert load_config(tmp_path).data.name == "folder:/b"
    for other in ("npz:/b.npz", "cifar10"):
        with pytest.raises(ValueError, match=rf"config\.data\.name: 'folder:/b' there, '{other}' given"):
            open_workdir(small_config(data__name=other), tmp_path)


def test_a_beginning_stays(tmp_path):
    beginning = {"workdir": "/a", "which": "best"}
    begun(open_workdir(small_config(), tmp_path, init_from=beginning), finished=1)
    open_workdir(small_config(), tmp_path, init_from=beginning)
    for other in (None, beginning | {"which": "last"}):
        with pytest.raises(ValueError, match=r"init_from: \{'workdir': '/a', 'which': 'best'\} there, "):
            open_workdir(small_config(), tmp_path, init_from=other)


def test_extra_images_may_move_but_not_change(tmp_path):
    for name, content in (("a", b"images"), ("moved", b"images"), ("changed", b"others")):
        (tmp_path / name).write_bytes(content)

    def config(name):
        return small_config(data__extra=str(tmp_path / name) if name else "", data__extra_share=0.5 if name else 0.0)

    folder = begun(open_workdir(config("a"), tmp_path / "run"))
    open_workdir(config("moved"), folder)
    with pytest.raises(ValueError, match=r"the file config\.data\.extra: SHA-256 \w{64} there, \w{64} given"):
        open_workdir(config("changed"), folder)
    with pytest.raises(ValueError, match=r"config\.data\.extra: '.*moved' there, '' given"):
        open_workdir(config(""), folder)


def test_extra_images_in_parts_may_move_but_not_change(tmp_path):
    for folder in ("a", "moved", "relabelled", "swapped"):
        (tmp_path / folder).mkdir()
        for name in ("1.npz", "2.npz", "2.labels"):
            (tmp_path / folder / name).write_text(name)
    (tmp_path / "relabelled" / "2.labels").write_text("others")
    (tmp_path / "swapped" / "1.npz").write_text("2.npz")
    (tmp_path / "swapped" / "2.npz").write_text("1.npz")

    def config(name):
        return small_config(data__extra=str(tmp_path / name), data__extra_share=0.5)

    folder = begun(open_workdir(config("a"), tmp_path / "run"))
    open_workdir(config("moved"), folder)
    open_workdir(config("a/1.npz,moved/2.npz".replace("moved", str(tmp_path / "moved"))), folder)
    for name in ("relabelled", "swapped"):
        with pytest.raises(ValueError, match=r"config\.data\.extra: SHA-256 \w{64} there, \w{64} given"):
            open_workdir(config(name), folder)


def test_a_sweeps_folder_is_no_single_runs(tmp_path):
    open_sweep({"seed=1": {"seed": 1}}, tmp_path)
    with pytest.raises(ValueError, match="holds a sweep; give a single run another workdir"):
        open_workdir(small_config(), tmp_path)


def test_a_run_from_before_a_field_was_added_goes_on(tmp_path):
    begun(open_workdir(small_config(), tmp_path))
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    del stored["config"]["loss"]["awp"]
    path.write_text(json.dumps(stored))
    open_workdir(small_config(), tmp_path)
    with pytest.raises(ValueError, match=r"config\.loss\.awp: False there, True given"):
        open_workdir(small_config(loss__awp=True), tmp_path)


@pytest.mark.parametrize("changes", [dict(validation__examples=8), dict(validation__split="holdout")])
def test_a_run_that_validated_on_other_images_is_refused(tmp_path, changes):
    config = small_config(**changes)
    begun(open_workdir(config, tmp_path))
    open_workdir(config, tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    del content["splits_revision"]  # As the versions wrote it that took first and last rows.
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"images of config\.validation\.holdout and examples: the last"):
        open_workdir(config, tmp_path)


def test_not_a_runs_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run's folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("checkpoint", ["last/12", "best/7", "damaged/last-7"])
def test_checkpoints_without_their_config_are_refused(tmp_path, checkpoint):
    folder = open_workdir(small_config(), tmp_path / "run")
    (folder / "checkpoints" / "last").mkdir(parents=True)
    (folder / "checkpoints" / "last" / "12.tmp").mkdir()
    (folder / "config.json").unlink()
    open_workdir(small_config(epochs=9), folder)  # Nothing was trained with the first.
    (folder / "config.json").unlink()
    (folder / "checkpoints" / checkpoint).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"{folder} has checkpoints but no config.json, .*put back a copy"):
        open_workdir(small_config(), folder)
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("left", ["config.json", "checkpoints/last/12"])
def test_members_without_their_sweep_are_refused(tmp_path, left):
    (tmp_path / "seed=1" / left).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"{tmp_path} has runs in its folders but no sweep.json, .*put back a copy"):
        open_sweep({"seed=1": {"seed": 1}}, tmp_path)
    assert not (tmp_path / "sweep.json").exists()


@pytest.mark.parametrize(("damage", "fault"), [
    (lambda content: "", "is not valid JSON"),
    (lambda content: json.dumps(content)[:100], "is not valid JSON"),
    (lambda content: "[1]", "must hold a JSON object; got list"),
    (lambda content: json.dumps({**content, "config": 3}), "must have a field 'config' of type dict; got int"),
    (lambda content: json.dumps({name: value for name, value in content.items() if name != "versions"}),
     "must have a field 'versions' of type dict; got nothing"),
    (lambda content: json.dumps({**content, "own": [1]}), "what the run was given of its own"),
    (lambda content: json.dumps({**content, "own": {"dataset": {"name": "x"}}}), "what the run was given of its own"),
    (lambda content: json.dumps({**content, "config": content["config"] | {"epochs": "2"}}),
     r"config\.epochs must be of type int; got '2'"),
    (lambda content: json.dumps({**content, "config": content["config"] | {"data": 5}}),
     r"config\.data is not a field"),
    (lambda content: json.dumps({**content, "config": content["config"] | {"model": {"name": None}}}),
     r"config\.model\.name must be of type str; got None"),
])
def test_a_damaged_config_is_one_line_with_a_remedy(tmp_path, damage, fault):
    path = open_workdir(small_config(), tmp_path) / "config.json"
    path.write_text(damage(json.loads(path.read_text())))
    for read in (load_config, lambda workdir: open_workdir(small_config(), workdir)):
        with pytest.raises(DamagedFileError, match=f"{path} .*{fault}.* Put back a copy of it") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_sweep_is_one_line_with_a_remedy(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DamagedFileError, match=f"{tmp_path}/sweep.json .*Put back a copy"):
        open_sweep({}, tmp_path)


def test_a_divergence_is_read_or_one_line(tmp_path):
    assert load_divergence(tmp_path) is None
    (tmp_path / "diverged.json").write_text('{"epoch": 1, "step": 7}')
    assert load_divergence(tmp_path) == {"epoch": 1, "step": 7}
    for content in ("", "7", '{"step": "7", "epoch": 1}'):
        (tmp_path / "diverged.json").write_text(content)
        with pytest.raises(DamagedFileError, match=f"{tmp_path}/diverged.json .*Put back a copy"):
            load_divergence(tmp_path)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_workdir(small_config(), "~/a/run") == tmp_path / "a" / "run"
    assert load_config("~/a/run").to_dict() == small_config().to_dict()
    assert open_sweep({}, "~/sweep") == tmp_path / "sweep"


def test_metrics_are_what_the_history_says(tmp_path):
    history = [{"epoch": 1, "step": 6, "loss": 0.1 + 0.2}]
    with MetricsWriter(tmp_path) as writer:
        writer.write(history)
    # A resumed run knows less than the file: the file follows.
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n{}\n")
    with MetricsWriter(tmp_path) as writer:
        writer.write(history)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    assert list(tmp_path.glob("events.out.tfevents.*"))
