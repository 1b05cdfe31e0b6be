from morel_jax.targets import hlo, kernels

# As a GPU's program is printed, with what does not matter left out: 2 operations before the loop, then steps.
GPU = """\
HloModule jit_train_epoch, is_scheduled=true

%fused_reduce (a: f32[8,64]) -> f32[64] {
  %a = f32[8,64]{1,0} parameter(0)
  ROOT %sum = f32[64]{0} reduce(%a, %zero), dimensions={0}, to_apply=%add
}

%fused_dot (a: f32[8,64], b: f32[64,10]) -> f32[8,10] {
  %a = f32[8,64]{1,0} parameter(0)
  %b = f32[64,10]{1,0} parameter(1)
  %c = f32[8,10]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %sum = f32[8]{0} reduce(%c, %zero), dimensions={1}, to_apply=%add
}

%rows (data: u8[50000,8,8,3], i: s32[]) -> u8[8,8,8,3] {
  %data = u8[50000,8,8,3]{3,2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %slice = u8[8,8,8,3]{3,2,1,0} dynamic-slice(%data, %i), dynamic_slice_sizes={8,8,8,3}
}

%attack (p: (s32[], f32[8,8,8,64])) -> (s32[], f32[8,8,8,64]) {
  %p = (s32[], f32[8,8,8,64]) parameter(0)
  %x = f32[8,8,8,64]{3,2,1,0} get-tuple-element(%p), index=1
  %w = f32[64,3,3,64]{3,2,1,0} bitcast(%x)
  %conv = (f32[8,8,8,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %relu = f32[8,8,8,64]{3,2,1,0} maximum(%x, %x)
  ROOT %t = (s32[], f32[8,8,8,64]) tuple(%i, %relu)
}

%crop (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %piece = f32[8] dynamic-slice(%p), dynamic_slice_sizes={8}
}

%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %data = u8[50000,8,8,3]{3,2,1,0} get-tuple-element(%p), index=1
  %a = f32[8,64]{1,0} get-tuple-element(%p), index=2
  %b = f32[64,10]{1,0} get-tuple-element(%p), index=3
  %batch = u8[8,8,8,3]{3,2,1,0} fusion(%data, %i), kind=kLoop, calls=%rows
  %cropped = (s32[], f32[8]) while(%t), condition=%c, body=%crop, backend_config={"known_trip_count":{"n":"4"}}
  %attacked = (s32[], f32[8]) while(%t), condition=%c, body=%attack, backend_config={"known_trip_count":{"n":"10"}}
  %sums = f32[64]{0} fusion(%a), kind=kInput, calls=%fused_reduce
  %product = f32[8]{0} fusion(%a, %b), kind=kCustom, calls=%fused_dot
  %start = ((f32[64]{0}), f32[64]{0}) all-reduce-start(%sums), replica_groups={{0,1}}, to_apply=%add
  %done = f32[64]{0} all-reduce-done(%start)
  %moved = f32[64,8]{0,1} copy(%a)
  %sorted = f32[8]{0} sort(%product), to_apply=%less
  ROOT %t = (s32[], f32[8]) tuple(%i, %sorted)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %once = f32[8]{0} copy(%a)
  %twice = f32[8]{0} sine(%a)
  %steps = (s32[], f32[8]) while(%once), condition=%c, body=%step
  ROOT %r = f32[8] get-tuple-element(%steps), index=1
}
"""
MODULE = hlo.parse(GPU)
STEP = kernels.of_step(kernels.launched(MODULE))


def test_a_step_counts_its_loops_and_not_what_comes_before():
    found = kernels.count_kernels(MODULE, STEP)
    assert found.by_kind == {"convolution": 10, "collective": 1, "copy": 1, "elementwise": 1 + 4 + 10,
                             "matrix product": 1, "other": 1, "reduction": 1}
    assert found.step == 30
    assert found.attack_iteration == 2
    assert kernels.count_kernels(MODULE, kernels.launched(MODULE)).step == 32


def test_without_an_attack_no_loop_is_its():
    assert kernels.count_kernels(MODULE, STEP, attack=False).attack_iteration is None


def test_a_loop_around_the_attacks_is_not_its():
    """As where a batch is worked on in parts."""
    around = GPU.replace("%step (p: (s32[], f32[8]))", "%part (p: (s32[], f32[8]))", 1).replace("ENTRY", """\
%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %parts = (s32[], f32[8]) while(%t), condition=%c, body=%part, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY""")
    module = hlo.parse(around)
    found = kernels.count_kernels(module, kernels.of_step(kernels.launched(module)))
    assert (found.step, found.attack_iteration) == (90, 2)
