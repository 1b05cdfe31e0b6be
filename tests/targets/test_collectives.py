import json
import subprocess
import sys

import pytest

from morel_jax.targets.collectives import Collective, collectives
from tests.targets.sharded_collectives import STEPS, WIDTHS

# As XLA prints modules, with what does not matter left out.
HEADER = "HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=8\n"
ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def entry(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEADER}{ADD}\nENTRY %main.1_spmd (p: f32[8]) -> f32[8] {{\n  %p = f32[8]{{0}} parameter(0)\n{body}\n}}\n"


@pytest.mark.parametrize(("line", "expected"), [
    ("%x = f32[64]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add",
     Collective("all-reduce", 256, 8, 1)),
    ("%x = (f32[3,3,4,8]{3,2,1,0}, f32[10]{0}, /*index=2*/bf16[]) all-reduce(%p, %q, %r), replica_groups=[2,4]<=[8], "
     "use_global_device_ids=true, to_apply=%add", Collective("all-reduce", 4 * 288 + 40 + 2, 4, 1)),
    ("ROOT %x = f32[16,128]{1,0} all-gather(%p), channel_id=2, replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}",
     Collective("all-gather", 8192, 2, 1)),
    ("%x = bf16[2,128]{1,0:T(8,128)(2,1)S(1)} reduce-scatter(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
     Collective("reduce-scatter", 4 * 512, 4, 1)),
    ("%x = (s32[1,4]{1,0}, s32[1,4]{1,0}) all-to-all(%p, %q), replica_groups={{0,1}}",
     Collective("all-to-all", 32, 2, 1)),
    ("%x = pred[5]{0} collective-permute(%p), source_target_pairs={{0,1},{1,2},{2,0}}",
     Collective("collective-permute", 5, 3, 1)),
    ("%x = f32[7]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, to_apply=%add",
     Collective("all-reduce", 28, 8, 1)),
    ("%x = f32[7]{0} all-reduce(%p), replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1':(2)4}, to_apply=%add",
     Collective("all-reduce", 28, 4, 1)),
    ("%x = f32[7]{0} all-reduce(%p), replica_groups={}, to_apply=%add", Collective("all-reduce", 28, 8, 1)),
    ("%x = f64[7]{0} all-reduce-start(%p), replica_groups=[1,8]<=[8], to_apply=%add",
     Collective("all-reduce", 56, 8, 1)),
    ("%x = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={0}",
     Collective("all-gather", 256, 8, 1)),
    ("%x = ((f32[2]{0}, u8[2]{0}), (f32[16]{0}, u8[16]{0})) all-gather-start(%p, %q), replica_groups=[1,8]<=[8]",
     Collective("all-gather", 80, 8, 1)),
    # A GPU's: what starts it tells operands and results.
    ("%x = ((f32[64]{0}), f32[64]{0}) all-reduce-start(%p), replica_groups=[1,8]<=[8], to_apply=%add",
     Collective("all-reduce", 256, 8, 1)),
    ("%x = ((f32[4]{0}, f32[6]{0}), (f32[4]{0}, f32[6]{0})) all-reduce-start(%p, %q), replica_groups=[1,8]<=[8], "
     "to_apply=%add", Collective("all-reduce", 40, 8, 1)),
    ("%x = ((f32[16,10]{1,0}), f32[8,10]{1,0}) reduce-scatter-start(%p), replica_groups={{0,1}}, to_apply=%add",
     Collective("reduce-scatter", 640, 2, 1)),
    ("%x = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}",
     Collective("collective-permute", 24, 2, 1)),
])
def test_one_instruction(line, expected):
    assert collectives(entry(line)) == [expected]


def test_what_is_none():
    assert collectives(entry(
        "%x = f32[64]{0} all-reduce-done(%all-reduce-start)",
        "%y = (f32[8]{0}, f32[8]{0}) tuple(%all-reduce.1, %all-gather)",
        '%z = f32[8]{0} add(%p, %all-gather), metadata={op_name="jit(f)/all-reduce"}')) == []


LOOPS = HEADER + ADD + """
%inner (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %one = f32[8]{0} all-reduce(%g), replica_groups={{0,1}}, to_apply=%add
}

%wrapped (q: f32[8]) -> f32[2] {
  ROOT %two = f32[2]{0} reduce-scatter(%q), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

%outer (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]{0}) while(%t), condition=%less, body=%inner, backend_config={"known_trip_count":{"n":"10"}}
  %call = f32[8]{0} call(%p), to_apply=%inner
  %start = ((f32[8]{0}), f32[2]{0}, u32[]) async-start(%p), calls=%wrapped
}

%less (c: (s32[], f32[8])) -> pred[] {
  ROOT %three = pred[] all-reduce(%l), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %unknown = (s32[], f32[8]{0}) while(%t), condition=%less, body=%outer
  %known = (s32[], f32[8]{0}) while(%t), condition=%less, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %either = f32[8]{0} conditional(%i, %a, %b), branch_computations={%inner, %wrapped}
}
"""


def test_turns_of_loops_and_calls():
    one, two, three = ("all-reduce", 32, 2), ("reduce-scatter", 32, 4), ("all-reduce", 1, 2)

    def outer(turns):
        return [(*three, turns), (*one, 10 * turns), (*one, turns), (*two, turns)]

    assert [(found.kind, found.bytes, found.group_size, found.count) for found in collectives(LOOPS)] == [
        (*three, 1), *outer(1), (*three, 1), *outer(3), (*one, 1), (*two, 1)]


# A TPU's: one exchange runs beside other work, and is printed in each of the fusions that it spans.
FUSED = HEADER + ADD + """
%begin (q: f32[1,4]) -> (f32[4,4], u32[]) {
  %one = f32[4,4]{1,0} all-gather(%q), channel_id=38, replica_groups=mesh['data'=4] {'data'}, dimensions={0}
  ROOT %started = (f32[4,4]{1,0}, u32[]) custom-call(%one), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (q: f32[1,4]) -> (f32[4,4], u32[]) {
  %two = f32[4,4]{1,0} all-gather(%q), channel_id=38, replica_groups=mesh['data'=4] {'data'}, dimensions={0}
  ROOT %more = f32[16] sine(%other)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %a = (f32[4,4]{1,0}, u32[]) fusion(%p), kind=kCustom, calls=%begin
  %b = (f32[4,4]{1,0}, u32[]) fusion(%a), kind=kOutput, calls=%meanwhile
  %c = f32[4,4]{1,0} all-gather(%b), channel_id=39, replica_groups=mesh['data'=4] {'data'}, dimensions={0}
}
"""


def test_one_that_spans_fusions_counts_once():
    assert collectives(FUSED) == [Collective("all-gather", 64, 4, 1), Collective("all-gather", 64, 4, 1)]


def test_a_channel_that_several_share_counts_each():
    line = "%x{} = f32[4]{{0}} all-reduce(%p), channel_id=1, replica_groups={{{{0,1}}}}, to_apply=%add"
    assert collectives(entry(line.format(1), line.format(2))) == [Collective("all-reduce", 16, 2, 1)] * 2


def test_errors():
    with pytest.raises(ValueError, match="groups must be in a known notation; got %x = f32"):
        collectives(entry("%x = f32[64]{0} all-reduce(%p), replica_groups=everyone, to_apply=%add"))
    with pytest.raises(ValueError, match="must be a compiled module with an ENTRY; it begins 'module @jit_f"):
        collectives("module @jit_f attributes {} {\n}\n")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What tests/training/sharded_collectives.py found on eight devices."""
    path = tmp_path_factory.mktemp("collectives") / "found.json"
    subprocess.run([sys.executable, "-m", "tests.targets.sharded_collectives", path], check=True)
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_program_with_one_of_each(found):
    # float32[2, 8], 64 bytes, on each of 4 x 2 devices, exchanged along the axis of 4.
    assert [Collective(**one) for one in found["exchanges"]] == [
        Collective("all-reduce", 64, 4, 5), Collective("all-gather", 256, 4, 1),
        Collective("reduce-scatter", 256, 4, 1), Collective("collective-permute", 64, 8, 1),
        Collective("all-to-all", 64, 4, 1)]


def bytes_by_kind(found, name):
    total = {}
    for one in found["steps"][name]["collectives"]:
        assert one["group_size"] == 8
        total[one["kind"]] = total.get(one["kind"], 0) + one["bytes"] * one["count"]
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["usual", "large images", "large batch", "long attack"])
def test_a_morel_step_gathers_the_embeddings_inputs_and_labels(found, name):
    _, _, batch, _, _ = STEPS[name]
    total = bytes_by_kind(found, name)
    assert set(total) == {"all-gather", "all-reduce"}
    assert total["all-gather"] == 4 * (2 * batch * WIDTHS[-1] + batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_reduces_gradients_and_statistics(found, name):
    """Nothing of a loss but scalars, and nothing that depends on images, batch or attack."""
    parameters, channels = (found["steps"][name][field] for field in ("parameters", "channels"))
    parts = STEPS[name][-1]
    numbers = bytes_by_kind(found, name)["all-reduce"] / 4 / parts
    # Gradients, once for both kinds of images; mean, variance and their two cotangents of each kind. Scalars: the
    # classification loss and two accuracies.
    assert parameters + 2 * 2 * channels < numbers <= parameters + 2 * 4 * channels + 3
    assert numbers == bytes_by_kind(found, "usual")["all-reduce"] / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["without embedding", "in parts"])
def test_without_an_embedding_space_nothing_is_gathered(found, name):
    assert set(bytes_by_kind(found, name)) == {"all-reduce"}


@pytest.mark.slow
def test_the_attack_exchanges_nothing(found):
    assert found["steps"]["long attack"]["collectives"] == found["steps"]["usual"]["collectives"]


@pytest.mark.slow
def test_a_part_must_be_a_multiple_of_the_devices(found):
    assert found["error"] == ("config.batch_size / config.accumulate must be a multiple of the 8 devices of the mesh "
                              "(config.mesh: data 8 x fsdp 1); got 4.")


@pytest.mark.slow
def test_a_dry_run_on_eight_devices(found):
    lines = dict(line.split("  ", 1) for line in found["dry_run"].splitlines()[1:])
    assert lines["compiled for"].strip() == "8 cpu (mesh: data 8 x fsdp 1)"
    assert lines["all-gather"].strip().endswith("exchanges of 8 devices")
