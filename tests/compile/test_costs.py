"""FLOPs and HBM bytes of single instructions, against counts by hand."""

import pytest

from lfr_jax.compile import costs
from lfr_jax.compile.hlo import parse


def only(*lines: str, before: str = ""):
    """A module of one computation, that computation, and its last instruction."""
    text = before + "ENTRY %main () -> f32[] {\n" + "\n".join(f"  {line}" for line in lines) + "\n}"
    computation = (module := parse(text)).computations["main"]
    return module, computation, list(computation.values())[-1]


@pytest.mark.parametrize(
    "left, right, out, how, flops",
    [
        # x[2, 64, 32] · w[32, 16], the batch as a spatial axis
        ("2,64,32", "32,16,1", "2,64,16", "window={size=1}, dim_labels=0bf_io0->0bf", 2 * 2 * 64 * 32 * 16),
        # x[64, 32] · w[32, 4, 8] with 4 heads: as a convolution, 7 places of which only one is not padding
        (
            "64,32,1",
            "32,4,8",
            "64,4,8",
            "window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_i0o->b0f",
            2 * 64 * 32 * 4 * 8,
        ),
        # xᵀ[32, 2·64] · dy[2·64, 16]: the gradient of a weight, the rows a spatial axis that is summed over
        ("2,64,32", "2,64,16", "32,16,1", "window={size=2}, dim_labels=0fb_0io->bf0", 2 * 2 * 64 * 32 * 16),
        # 3 × 3, padded by 1, on 5 × 5: 13 of 15 places along each axis
        ("1,5,5,2", "3,3,2,4", "1,5,5,4", "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f", 2 * 13 * 13 * 8),
        # stride 2 on a dilated input: places 0, 2, 4, ... hold an input
        ("1,3,1", "1,1,1", "1,3,1", "window={size=1 stride=2 lhs_dilate=2}, dim_labels=b0f_0io->b0f", 2 * 3),
    ],
)
def test_products_written_as_convolutions(left, right, out, how, flops):
    """Catches: padding counted as work, which makes a product with H heads H times as dear; a summed axis left out."""
    lines = [
        f"%a = bf16[{left}]{{0}} parameter(0)",
        f"%b = bf16[{right}]{{0}} parameter(1)",
        f"ROOT %c = bf16[{out}]{{0}} convolution(%a, %b), {how}",
    ]
    assert costs.flops(*only(*lines)) == flops


FUSED = """%fused (p0: f32[8,100], p1: s32[], p2: f32[100]) -> (f32[8,100], f32[100]) {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %p2 = f32[100]{0:S(1)} parameter(2)
  %row = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,100}
  %flat = f32[100]{0} bitcast(%row)
  %sum = f32[100]{0} add(%flat, %p2)
  %w = f32[100,100]{1,0} constant(0)
  %x = f32[1,100]{1,0} bitcast(%sum)
  %y = f32[1,100]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[8,100]{1,0} dynamic-update-slice(%p0, %y, %p1, %p1)
  ROOT %out = (f32[8,100]{1,0}, f32[100]{0}) tuple(%z, %sum)
}

"""


def test_a_fusion_reads_its_slices_and_writes_its_update():
    """Catches: a stack of all layers counted whole at every layer; the chip's own memory counted as HBM; products
    within a fusion not found."""
    lines = [
        "%a = f32[8,100]{1,0} parameter(0)",
        "%i = s32[]{:S(6)} parameter(1)",
        "%v = f32[100]{0:S(1)} parameter(2)",
        "ROOT %f = (f32[8,100]{1,0}, f32[100]{0}) fusion(%a, %i, %v), kind=kLoop, calls=%fused",
    ]
    module, computation, fusion = only(*lines, before=FUSED.replace("dynamic-update-slice(%p0", "update(%p0"))
    assert costs.flops(module, computation, fusion) == 2 * 100 * 100
    assert costs.traffic(module, computation, fusion) == 3200 + 3200 + 400  # read whole for `update`, two results

    one_use = FUSED.replace("dynamic-slice(%p0, %p1", "broadcast(%p1")
    assert costs.traffic(*only(*lines, before=one_use)) == 400 + 400  # the row that is written, and the sum
    read_only = FUSED.replace("dynamic-update-slice(%p0, %y", "pad(%y")
    assert costs.traffic(*only(*lines, before=read_only)) == 400 + 3200 + 400


NESTED = """%reads (q0: f32[8,100], q1: s32[]) -> f32[1,100] {
  %q0 = f32[8,100]{1,0} parameter(0)
  %q1 = s32[]{:T(128)} parameter(1)
  ROOT %row = f32[1,100]{1,0} dynamic-slice(%q0, %q1, %q1), dynamic_slice_sizes={1,100}
}

%writes (r0: f32[8,100], r1: f32[1,100], r2: s32[]) -> f32[8,100] {
  %r0 = f32[8,100]{1,0} parameter(0)
  %r1 = f32[1,100]{1,0} parameter(1)
  %r2 = s32[]{:T(128)} parameter(2)
  ROOT %new = f32[8,100]{1,0} dynamic-update-slice(%r0, %r1, %r2, %r2)
}

%fused (p0: f32[8,1,100], p1: s32[]) -> f32[8,1,100] {
  %p0 = f32[8,1,100]{2,1,0} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %flat = f32[8,100]{1,0} bitcast(%p0)
  %row = f32[1,100]{1,0} fusion(%flat, %p1), kind=kLoop, calls=%reads
  %stack = f32[8,100]{1,0} fusion(%flat, %row, %p1), kind=kLoop, calls=%writes
  ROOT %out = f32[8,1,100]{2,1,0} bitcast(%stack)
}

"""


def test_slices_behind_other_names_and_in_fusions_within():
    """Catches: a stack of all layers that is only renamed, or handed on to a fusion within, counted whole."""
    lines = [
        "%a = f32[8,1,100]{2,1,0} parameter(0)",
        "%i = s32[]{:S(6)} parameter(1)",
        "ROOT %f = f32[8,1,100]{2,1,0} fusion(%a, %i), kind=kLoop, calls=%fused",
    ]
    assert costs.traffic(*only(*lines, before=NESTED)) == 400 + 400


@pytest.mark.parametrize(
    "last, moved",
    [
        ("%c = f32[100]{0} add(%a, %b)", 1200),
        ("%c = f32[100]{0:S(1)} add(%a, %b)", 800),
        ("%c = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%a)", 400),
        ("%c = f32[100]{0} bitcast(%a)", 0),
        ("%c = f32[10]{0} slice(%a), slice={[0:10]}", 80),
        ("%c = ((f32[100]{0}), f32[10]{0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:10]}", 40),
        ('%c = f32[100]{0} custom-call(), custom_call_target="AllocateBuffer"', 0),
        ('%c = f32[100]{0} custom-call(%a), custom_call_target="tpu_custom_call"', 800),
        ("%c = f32[100]{0} dynamic-update-slice(%a, %u, %a)", 16),
        ("%c = f32[100]{0} all-gather-done(%a)", 0),
        ("%c = ((f32[100]{0}, f32[2]{0}), f32[25]{0}) call-start(%a, %u)", 508),
    ],
)
def test_bytes_of_plain_instructions(last, moved):
    """Catches: a copy into the chip's memory counted at both ends; a name for a part counted as a copy; operands
    that a call to another core names again in its result counted twice."""
    lines = ["%a = f32[100]{0} parameter(0)", "%b = f32[100]{0} parameter(1)", "%u = f32[2]{0} parameter(2)", last]
    assert costs.traffic(*only(*lines)) == moved
