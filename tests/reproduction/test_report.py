import json

import numpy as np
import pytest

from morel_jax import manifest
from morel_jax.files import DamagedFileError
from morel_jax.reproduction import cost, page, report
from morel_jax.reproduction.cells import parse, printed
from morel_jax.reproduction.explain import explain
from morel_jax.reproduction.grid import Grid
from morel_jax.reproduction.plan import Plan, values
from morel_jax.reproduction.scales import scale
from morel_jax.training.saved import CheckpointError

CELL = parse("1/cifar10/resnet18/white-box/trades/pgd20/best")


def write_last(run, history, step):
    """The record of a run's ``last``, as training leaves it; returns the checkpoint's folder."""
    folder = run.folder / "checkpoints" / "last" / str(step + len(history))
    (folder / "record").mkdir(parents=True)
    (folder / "record" / "metadata").write_text(json.dumps({"history": history, "best": 0.5, "seconds": 0.0}))
    manifest.write(folder)
    return folder


def fill(plan, tables=True, seeds=(0, 1), families=None):
    """Results as a reproduction leaves them, made up: an accuracy depends on network, seed and attack."""
    for number, family in enumerate(plan.families):
        if families is not None and family not in families:
            continue
        for run in plan.runs(family):
            if run.seed not in seeds:
                continue
            epochs = run.member.config.epochs
            line = {"representation_loss": 0.1 + 0.01 * number + 0.001 * run.seed,
                    "classification_loss": 2 - 0.1 * number, "clean_accuracy": 0.7,
                    "robust_accuracy": 0.5 + 0.01 * run.seed}
            write_last(run, [line | {"epoch": epoch, "step": epoch} for epoch in range(1, epochs + 1)], epochs)
        for one in plan.judgements(family) if tables else ():
            if one.run.seed not in seeds:
                continue
            one.folder.mkdir(parents=True)
            if one.protocol == "heat_map":
                np.savez(one.folder / "heat_map.npz", similarity=np.eye(4, dtype=np.float32), labels=[0, 0, 1, 2])
                continue
            entry = {"accuracy": 0.4 + 0.01 * number + 0.02 * one.run.seed}
            prefix = "transfer-" if one.protocol == "transfer" else ""
            attacks = {prefix + name: entry for name in ("fgsm", "pgd20", "pgd100", "cw", "autoattack", "square")}
            (one.folder / "summary.json").write_text(json.dumps(
                {"settings": {}, "clean": {"accuracy": 0.7}, "average": entry, "transfer_average": entry,
                 "attacks": attacks}))


def whole(root):
    return Plan(Grid(scale("smoke")), root, range(1, 9), (2, 3, 4))


@pytest.fixture
def plan(tmp_path):
    return whole(tmp_path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(plan with all results, its report, the folder that was written of it)."""
    root = tmp_path_factory.mktemp("filled")
    plan = whole(root)
    fill(plan)
    built = report.build(plan)
    page.write(built, root / "report")
    return plan, built, root / "report"


def table_of(built, cell):
    rows = [one for table in built["tables"] for row in table["rows"] for one in row["cells"]
            if one["name"] == cell.name]
    assert len(rows) == 1
    return rows[0]


def test_every_cell_is_in_the_report_once(plan):
    built = report.build(plan)
    names = [one["name"] for table in built["tables"] for row in table["rows"] for one in row["cells"]]
    assert sorted(names) == sorted(cell.name for cell in printed())
    assert all(one["ours"] is None for table in built["tables"] for row in table["rows"] for one in row["cells"])


def test_numbers_reach_their_cells(filled):
    plan, built, _ = filled
    number = next(number for number, family in enumerate(plan.families)
                  if plan.grid.network(CELL) in family.networks)
    expected = {0: 40.0 + number, 1: 42.0 + number}
    assert values(plan, CELL) == pytest.approx(expected)
    cell = table_of(built, CELL)
    assert cell["ours"]["mean"] == pytest.approx(41.0 + number)
    assert cell["difference"] == pytest.approx(41.0 + number - printed()[CELL])
    assert "half" in cell["ours"]


def test_a_full_report_has_everything_filled(filled):
    _, built, folder = filled
    for table in built["tables"]:
        for row in table["rows"]:
            assert all(one["ours"] for one in row["cells"])
    assert all(claim["ours"]["verdict"] in ("holds", "fails") for claim in built["claims"])
    assert [len(curve) for curve in built["figures"]["4"]["curves"].values()] == [3, 3]
    assert [point["at"] for point in built["figures"]["2"]["batch_sizes"]] == [8, 32]
    assert all(built["figures"]["3"].values())
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html.replace("http-equiv", "")
    assert "not yet" not in html
    markdown = (folder / "report.md").read_text()
    assert "| MOREL(←MART) |" in markdown
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "report.html", "report.md", "figure_2.png", "figure_3.png", "figure_4.png"}


def test_the_same_results_give_the_same_files(filled, tmp_path):
    plan, _, folder = filled
    page.write(report.build(plan), tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_missing_and_diverged_cells_say_so(plan, tmp_path):
    fill(plan, seeds=(0,))
    (run,) = [run for run in plan.runs_of(plan.grid.network(CELL)) if run.seed == 1]
    run.folder.mkdir(parents=True)
    (run.folder / "diverged.json").write_text('{"epoch": 1, "step": 7}')
    assert run.is_trained()
    cell = table_of(report.build(plan), CELL)
    assert cell["diverged"] == [1]
    assert cell["ours"]["count"] == 1
    assert cell["ours"]["half"] is None
    small = Plan(Grid(scale("small")), tmp_path, [1], [])
    assert not table_of(report.build(small), parse("1/cifar100/resnet18/white-box/trades/clean/best"))["at_this_scale"]


@pytest.fixture
def run(plan):
    return plan.runs(plan.families[0])[0]


def test_trained_is_what_the_last_checkpoint_says(run):
    """A run that was killed, whose metrics know more than its ``last``, is not trained."""
    epochs = run.member.config.epochs
    lines = [{"epoch": epoch, "step": 6 * epoch} for epoch in range(1, epochs + 1)]
    assert (run.is_trained(), run.history()) == (False, [])
    folder = write_last(run, lines[:-1], 6 * epochs - 2)
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (run.is_trained(), run.history()) == (False, lines[:-1])
    folder = write_last(run, lines, 6 * epochs)
    assert (run.is_trained(), run.history()) == (True, lines)
    (folder / "record" / "metadata").write_text("{}")
    assert not run.is_trained()
    with pytest.raises(CheckpointError, match=f"{folder} is damaged: record/metadata must have"):
        run.history()


def test_a_run_under_way_is_on_no_curve(filled, plan):
    assert len(filled[1]["figures"]["4"]["curves"]["conic"]) == 3
    fill(plan, tables=False)
    network = next(iter(plan.grid.preferences["conic"].values()))
    for one in plan.runs_of(network):
        write_last(one, [{"epoch": 1, "step": 6, "robust_accuracy": 0.9}] * (one.member.config.epochs - 1), 10**6)
    assert len(report.build(plan)["figures"]["4"]["curves"]["conic"]) == 2


@pytest.mark.parametrize("content", ["", "{", '{"clean": {}}', '{"clean": {}, "attacks": 5}',
                                     '{"clean": {}, "attacks": {}}', '{"clean": {}, "attacks": {"pgd20": 0.5}}'])
def test_a_damaged_summary_is_one_line_with_a_remedy(plan, content):
    network = plan.grid.network(CELL)
    fill(plan, families=[family for family in plan.families if network in family.networks])
    path = plan.runs_of(network)[0].judgement("best", "paper").folder / "summary.json"
    path.write_text(content)
    with pytest.raises(DamagedFileError, match=f"{path} .*Delete it, and give the command again"):
        values(plan, CELL)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"text"])
def test_a_damaged_heat_map_is_one_line_with_a_remedy(run, content):
    judgement = run.judgement("last", "heat_map")
    judgement.folder.mkdir(parents=True)
    assert judgement.heat_map() is None
    (judgement.folder / "heat_map.npz").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"heat_map\.npz cannot be read .*Delete it, and give the command again"):
        judgement.heat_map()


def test_a_root_that_is_no_local_path_is_refused():
    with pytest.raises(ValueError, match="root must be a path on a mounted file system"):
        Plan(Grid(scale("smoke")), "gs://bucket/root", [1], [])


def test_hypervolume_by_hand():
    assert report.hypervolume([(1.0, 3.0), (2.0, 1.0)], (4.0, 4.0)) == 3 * 1 + 2 * 2
    assert report.hypervolume([(1.0, 3.0), (2.0, 1.0), (3.0, 3.5)], (4.0, 4.0)) == 7  # One more that is dominated.
    assert report.hypervolume([(5.0, 1.0)], (4.0, 4.0)) == 0


def test_study(tmp_path):
    plan = Plan(Grid(scale("smoke")), tmp_path, [], [], study=True)
    fill(plan)
    built = report.build(plan)
    assert built["tables"] == []
    for question, lines in plan.grid.study.items():
        rows = {row["label"]: row for row in built["study"][question]}
        assert list(rows) == list(lines)
        for row in rows.values():
            assert row["of_seeds"] == pytest.approx([row["autoattack"]["mean"] - 1, row["autoattack"]["mean"] + 1])
            if row["against"] is None:
                assert row["difference"] is None
            else:
                expected = row["autoattack"]["mean"] - rows[row["against"]]["autoattack"]["mean"]
                assert row["difference"]["mean"] == pytest.approx(expected)
    page.write(built, tmp_path / "report")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert all(question in text for question in report.QUESTIONS.values())
        assert all(page.study_texts(row)[1] in text for rows in built["study"].values() for row in rows)
    assert {path.stem for path in (tmp_path / "report").glob("*.png")} == {
        f"figure_{question}" for question in report.QUESTIONS}


def test_a_study_not_made_yet_has_empty_lines(tmp_path):
    built = report.build(Plan(Grid(scale("smoke")), tmp_path, [], [], study=True))
    page.write(built, tmp_path / "report")
    assert all(row["autoattack"] is row["difference"] is None for rows in built["study"].values() for row in rows)
    assert "Images judged: paper 40, transfer 40, autoattack 8." in (tmp_path / "report" / "report.md").read_text()


def test_variants_are_listed(plan):
    fields = {line["field"]: line for line in report.build(plan)["variants"]}
    assert (fields["attack.start"]["paper"], fields["attack.start"]["reference"]) == ("uniform", "normal")
    assert "variant" not in fields


def test_shards_part_the_work(plan):
    parts = [plan.shard(number, 3) for number in (1, 2, 3)]
    assert sorted(family.name for part in parts for family in part) == sorted(
        family.name for family in plan.families)
    assert plan.families[0].networks[0].method == "standard"  # Others wait for it.


def test_a_request_needs_no_more_than_its_own(tmp_path):
    plan = Plan(Grid(scale("paper")), tmp_path, [7], [])
    assert [family.name for family in plan.families] == ["cifar10-resnet18-loat", "cifar10-resnet18-morel_loat"]
    assert len(plan.judgements(plan.families[0])) == 2 * 3  # best and last of three seeds


def test_explain(filled):
    plan = filled[0]
    text = explain(plan, CELL)
    for expected in (f"paper      {printed()[CELL]:.2f} %", "seed 1", str(plan.folder),
                     "configs/smoke.py:convnet_small,trades,paper", "optimizer.learning_rate = 0.05",
                     "40 test images", "'pgd20' of summary.json", "not run yet"):
        assert expected in text


def test_what_is_left(plan):
    before = cost.left(plan, plan.families[1])
    config = plan.grid.base(plan.families[1])
    steps = 1000 // config.batch_size * config.epochs * len(plan.runs(plan.families[1]))
    assert before.steps == steps
    assert before.train_flops > 0
    assert before.judge_flops > 0
    fill(plan, families=plan.families[1:2])
    after = cost.left(plan, plan.families[1])
    assert (after.runs, after.steps, after.train_flops, after.judge_flops) == (0, 0, 0, 0)


def test_speed_is_measured(plan):
    assert 1e6 < cost.measure_flops_per_second(plan.grid.base(plan.families[0])) < 1e16
