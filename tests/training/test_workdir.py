import json

import pytest

from morel_jax.files import DamagedFileError
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


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    open_workdir(small_config(), tmp_path)
    with pytest.raises(ValueError, match="another config") as error:
        open_workdir(small_config(epochs=9, morel__preference=(0.3, 0.7)), tmp_path)
    assert "config.epochs: 2 there, 9 given" in str(error.value)
    assert "config.morel.preference: (0.1, 0.9) there, (0.3, 0.7) given" in str(error.value)
    assert "batch_size" not in str(error.value)


def test_where_things_lie_may_change(tmp_path):
    open_workdir(small_config(), tmp_path)
    open_workdir(small_config(data__cache_dir="/elsewhere", data__placement="host"), tmp_path)


def test_extra_images_may_move_but_not_change(tmp_path):
    for name, content in (("a", b"images"), ("moved", b"images"), ("changed", b"others")):
        (tmp_path / name).write_bytes(content)

    def config(name):
        return small_config(data__extra=str(tmp_path / name) if name else "", data__extra_share=0.5 if name else 0.0)

    folder = open_workdir(config("a"), tmp_path / "run")
    open_workdir(config("moved"), folder)
    with pytest.raises(ValueError, match=r"the file config\.data\.extra: SHA-256 \w{64} there, \w{64} given"):
        open_workdir(config("changed"), folder)
    with pytest.raises(ValueError, match=r"config\.data\.extra: '.*a' there, '' given"):
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

    folder = open_workdir(config("a"), tmp_path / "run")
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
    open_workdir(small_config(), tmp_path)
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
    open_workdir(config, tmp_path)
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
