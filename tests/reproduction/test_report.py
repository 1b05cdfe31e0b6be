import pytest

from morel_jax.reproduction import page, report
from morel_jax.reproduction.grid import Grid, scale
from morel_jax.reproduction.paper import parse, printed
from morel_jax.reproduction.trials import Reproduction
from tests.reproduction.made import CELL, fill, whole, write_last


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(reproduction with all results, its report, the folder that was written of it)."""
    root = tmp_path_factory.mktemp("filled")
    reproduction = whole(root)
    fill(reproduction)
    built = report.build(reproduction)
    page.write(built, root / "report")
    return reproduction, built, root / "report"


def table_of(built, cell):
    rows = [one for table in built["tables"] for row in table["rows"] for one in row["cells"]
            if one["name"] == cell.name]
    assert len(rows) == 1
    return rows[0]


def test_every_cell_is_in_the_report_once(reproduction):
    built = report.build(reproduction)
    names = [one["name"] for table in built["tables"] for row in table["rows"] for one in row["cells"]]
    assert sorted(names) == sorted(cell.name for cell in printed())
    assert all(one["ours"] is None for table in built["tables"] for row in table["rows"] for one in row["cells"])


def test_numbers_reach_their_cells(filled):
    reproduction, built, _ = filled
    number = next(number for number, family in enumerate(reproduction.families)
                  if reproduction.grid.network(CELL) in family.networks)
    expected = {0: 40.0 + number, 1: 42.0 + number}
    assert reproduction.values(CELL) == pytest.approx(expected)
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
    reproduction, _, folder = filled
    page.write(report.build(reproduction), tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_missing_and_diverged_cells_say_so(reproduction, tmp_path):
    fill(reproduction, seeds=(0,))
    (trial,) = [trial for trial in reproduction.trials_of(reproduction.grid.network(CELL)) if trial.seed == 1]
    trial.folder.mkdir(parents=True)
    (trial.folder / "diverged.json").write_text('{"epoch": 1, "step": 7}')
    assert trial.is_trained()
    cell = table_of(report.build(reproduction), CELL)
    assert cell["diverged"] == [1]
    assert cell["ours"]["count"] == 1
    assert cell["ours"]["half"] is None
    small = Reproduction(Grid(scale("small")), tmp_path, [1], [])
    assert not table_of(report.build(small), parse("1/cifar100/resnet18/white-box/trades/clean/best"))["at_this_scale"]


def test_a_run_under_way_is_on_no_curve(filled, reproduction):
    assert len(filled[1]["figures"]["4"]["curves"]["conic"]) == 3
    fill(reproduction, tables=False)
    network = next(iter(reproduction.grid.preferences["conic"].values()))
    for one in reproduction.trials_of(network):
        write_last(one, [{"epoch": 1, "step": 6, "robust_accuracy": 0.9}] * (one.member.config.epochs - 1), 10**6)
    assert len(report.build(reproduction)["figures"]["4"]["curves"]["conic"]) == 2


def test_hypervolume_by_hand():
    assert report.hypervolume([(1.0, 3.0), (2.0, 1.0)], (4.0, 4.0)) == 3 * 1 + 2 * 2
    assert report.hypervolume([(1.0, 3.0), (2.0, 1.0), (3.0, 3.5)], (4.0, 4.0)) == 7  # One more that is dominated.
    assert report.hypervolume([(5.0, 1.0)], (4.0, 4.0)) == 0


def test_study(tmp_path):
    reproduction = Reproduction(Grid(scale("smoke")), tmp_path, [], [], study=True)
    fill(reproduction)
    built = report.build(reproduction)
    assert built["tables"] == []
    for question, lines in reproduction.grid.study.items():
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
    built = report.build(Reproduction(Grid(scale("smoke")), tmp_path, [], [], study=True))
    page.write(built, tmp_path / "report")
    assert all(row["autoattack"] is row["difference"] is None for rows in built["study"].values() for row in rows)
    assert "Images judged: paper 40, transfer 40, autoattack 8." in (tmp_path / "report" / "report.md").read_text()


def test_variants_are_listed(reproduction):
    fields = {line["field"]: line for line in report.build(reproduction)["variants"]}
    assert (fields["attack.start"]["paper"], fields["attack.start"]["reference"]) == ("uniform", "normal")
    assert "variant" not in fields


def test_explain(filled):
    reproduction = filled[0]
    text = report.explain(reproduction, CELL)
    for expected in (f"paper      {printed()[CELL]:.2f} %", "seed 1", str(reproduction.folder),
                     "configs/smoke.py:convnet_small,trades,paper", "optimizer.learning_rate = 0.05",
                     "40 test images", "'pgd20' of summary.json", "not run yet"):
        assert expected in text


def test_a_table_says_which_differences_are_beyond_chance(filled):
    reproduction, built, folder = filled
    numbers = {network.name: number for number, family in enumerate(reproduction.families)
               for network in family.networks}
    table = next(table for table in built["tables"]
                 if table["rows"][0]["cells"][0]["name"].startswith("1/cifar10/resnet18/"))
    (found,) = [one for one in table["differences"]
                if (one["method"], one["attack"], one["checkpoint"]) == ("MOREL(←MART)", "PGD-20", "best")]
    networks = [reproduction.grid.network(parse(f"1/cifar10/resnet18/white-box/{method}/pgd20/best")).name
                for method in ("morel_mart", "mart")]
    assert found["mean"] == pytest.approx(numbers[networks[0]] - numbers[networks[1]])
    assert found["half"] == pytest.approx(0, abs=1e-9)  # Made up: the same for both seeds.
    assert page.chance_text(table) in (folder / "report.md").read_text()
    assert "MOREL minus its baseline" in (folder / "report.html").read_text()


def test_what_is_beyond_chance_by_hand():
    one = dict(method="MOREL(←MART)", attack="PGD-20", checkpoint="last", mean=1.5, half=1.0, count=3,
               beyond_chance=True)
    other = one | dict(attack="clean", mean=-0.5, beyond_chance=False)
    alone = one | dict(half=None, count=1, beyond_chance=False)
    text = page.chance_text({"differences": [one, other, alone]})
    assert text == ("MOREL minus its baseline, paired by seed: 1 of 2 differences exclude zero at 95 % (by chance "
                    "about 0.1 would): MOREL(←MART) PGD-20, last: +1.50 ± 1.00.")
    assert page.chance_text({"differences": [alone]}) == ""
