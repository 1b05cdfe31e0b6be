import json

import pytest

from morel_jax.training.workdir import MetricsWriter, load_config, open_sweep, open_workdir
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


def test_metrics_are_what_the_history_says(tmp_path):
    writer = MetricsWriter(tmp_path, [])
    history = [{"epoch": 1, "step": 6, "loss": 0.1 + 0.2}]
    writer.write(history)
    writer.close()
    # A resumed run knows less than the file: the file follows.
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n{}\n")
    MetricsWriter(tmp_path, history).close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    assert list(tmp_path.glob("events.out.tfevents.*"))
