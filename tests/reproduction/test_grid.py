import dataclasses

import pytest

from morel_jax import losses
from morel_jax.configuration import check
from morel_jax.reproduction.grid import SCALES, Grid, Network, protocol, scale
from morel_jax.reproduction.paper import parse, printed


@pytest.fixture(scope="module", params=SCALES)
def grid(request):
    return Grid(scale(request.param))


@pytest.fixture(scope="module")
def paper():
    return Grid(scale("paper"))


def test_each_network_is_trained_once(grid):
    networks = [network for family in grid.families for network in family.networks]
    assert len(set(networks)) == len(networks)
    assert len({family.name for family in grid.families}) == len(grid.families)


def test_every_cell_has_its_network_in_a_family(grid):
    for cell in printed():
        network = grid.network(cell)
        if network is None:
            assert grid.scale.name == "small"
        else:
            assert network in grid.family(network).networks


def test_configs_are_accepted_and_folders_differ(grid):
    names = set()
    for family in grid.families:
        members = grid.members(family)
        for member in members.values():
            check(member.config)
        names |= {(family.name, member.name) for member in members.values()}
    assert len(names) == sum(len(grid.members(family)) for family in grid.families)


def test_the_papers_networks(paper):
    networks = {paper.network(cell) for cell in printed()}
    # Tables 1 and 2: 4 methods, 2 networks, 2 data sets; Table 3: one more; 4, 5: 4; 7, 8: 2.
    assert len(networks) == 16 + 1 + 4 + 2
    assert {paper.surrogate(network).source for network in networks} == {"cifar10", "cifar100", "tiny_imagenet"}


def test_the_papers_settings(paper):
    config = paper.config(paper.network(parse("1/cifar10/wide_resnet34_10/white-box/morel_mart/clean/best")))
    assert (config.batch_size, config.optimizer.learning_rate, config.epochs) == (8, 0.01, 100)
    ablation = paper.config(paper.network(parse("3/cifar10/resnet18/white-box/morel_mart_no_attention/clean/last")))
    assert ablation.morel.contrastive_weight == 0.0
    assert ablation.method == "morel_mart"


def test_figures_share_the_tables_network(paper):
    of_table = paper.network(parse("1/cifar10/resnet18/white-box/morel_mart/clean/best"))
    assert paper.preferences["conic"][0.1] == of_table  # The paper's own preference.
    assert paper.batch_sizes[8] == of_table
    assert paper.heat_maps["morel_mart"] == of_table
    assert paper.preferences["conic"][0.3].changes == (("morel.preference", (0.3, 0.7)),)


def test_what_may_be_swept_is_one_family(paper):
    # k1 = 0.1 is the tables' and the study's, and has a family for itself.
    conic, weighted = ({paper.family(network).name for k1, network in networks.items() if k1 != 0.1}
                       for networks in paper.preferences.values())
    assert len(conic) == len(weighted) == 1
    assert conic != weighted
    (family,) = (family for family in paper.families if family.name in conic)
    assert len(paper.members(family)) == 8 * 3


def test_the_study_compares_with_the_papers_setting(paper):
    networks = {question: {label: line.network for label, line in lines.items()}
                for question, lines in paper.study.items()}
    base = paper.preferences["conic"][0.1]
    assert networks["terms"]["both, alpha 1e-05"] == networks["baselines"]["MOREL over MART"] == base
    assert networks["scalarization"]["conic"] == base
    assert networks["scalarization"]["weighted sum"] == paper.preferences["weighted_sum"][0.1]
    assert len(networks["scalarization"]) == len(losses.MULTI_OBJECTIVE) + 5
    joined = {paper.config(network).morel.scalarization for network in networks["scalarization"].values()}
    assert joined == set(losses.MULTI_OBJECTIVE)
    assert paper.config(networks["scalarization"]["UPGrad, three"]).morel.objectives == "three"
    assert networks["terms"]["MART alone"] == networks["batch"]["MART, batch 128"]
    sizes = [paper.config(network).batch_size for network in networks["batch"].values()]
    assert sizes == [8, 8, 32, 32, 128, 128]
    small = Grid(scale("small")).study
    assert small["batch"]["MOREL, batch 50"].network == small["scalarization"]["conic"].network
    alone = paper.config(networks["terms"]["contrastive alone, alpha 0.1"])
    assert (alone.morel.cosine_weight, alone.morel.contrastive_weight) == (0.0, 0.1)


def test_a_line_of_the_study_is_compared_with_one_that_is_there(grid):
    for lines in grid.study.values():
        assert next(iter(lines.values())).against is None
        assert {line.against for line in lines.values()} - {None} <= set(lines)


def test_one_surrogate_per_data_set_and_one_seed(grid):
    for family in grid.families:
        if family.networks[0].method == "standard":
            assert len(grid.members(family)) == 1


def test_reference():
    config = Grid(scale("paper"), "reference").config(Network("cifar10", "resnet18", "morel_mart"))
    assert (config.variant, config.attack.epsilon) == ("reference", 0.031)


def test_data_folders_reach_every_config():
    grid = Grid(scale("smoke"), data={"archive_dir": "archives"})
    assert {grid.base(family).data.archive_dir for family in grid.families} == {"archives"}


@pytest.mark.parametrize(("name", "expected"), [
    ("1/cifar10/resnet18/white-box/mart/clean/best", ("paper", "clean")),
    ("1/cifar10/resnet18/white-box/mart/cw_linf/best", ("paper", "cw")),
    ("1/cifar10/resnet18/white-box/mart/avg_robust/best", ("paper", "average")),
    ("2/cifar10/resnet18/transfer/mart/pgd20/best", ("transfer", "transfer-pgd20")),
    ("2/cifar10/resnet18/transfer/mart/avg_robust/best", ("transfer", "transfer_average")),
    ("6/cifar10/resnet18/square/mart/square/best", ("autoattack", "square")),
    ("6/cifar10/resnet18/autoattack/mart/autoattack/best", ("autoattack", "autoattack")),
])
def test_protocols(name, expected):
    assert protocol(parse(name)) == expected


def test_the_shipped_configs_are_found_from_any_folder(grid, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check(grid.config(grid.figures_network()))


def test_errors():
    with pytest.raises(ValueError, match="scale must be one of paper, small, smoke; got 'large'"):
        scale("large")
    with pytest.raises(FileNotFoundError, match=r"cifar10\.py in it.* got nowhere"):
        Grid(dataclasses.replace(scale("paper")), configs="nowhere")
