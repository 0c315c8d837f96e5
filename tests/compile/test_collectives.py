"""Collectives in scheduled HLO: kinds, groups, bytes, and what runs meanwhile. The texts are cut from real programs."""

import pytest

from lfr_jax.compile.collectives import find, group_of
from lfr_jax.compile.hlo import Instruction, parse

ALL = "replica_groups={{0,1,2,3}}"
PARAMETERS = """  %x = bf16[100]{0} parameter(0)
  %w = bf16[10,10]{1,0} parameter(1)
"""
PRODUCT = "  %y = bf16[10,10]{1,0} dot(%w, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n"


def found(lines: str, before: str = "", times: int = 1):
    text = f"{before}ENTRY %main () -> f32[] {{\n{PARAMETERS}{lines}}}"
    return find(parse(text))


@pytest.mark.parametrize(
    "opcode, out, wire",
    [
        ("all-gather", 400, 3 * 200),  # the other three's operands
        ("all-reduce", 100, 2 * 150),
        ("reduce-scatter", 25, 150),
        ("all-to-all", 100, 150),
    ],
)
def test_bytes_that_each_chip_must_receive(opcode, out, wire):
    """Catches: an all-reduce counted like a reduce-scatter; a gather counted by its operand alone; own part counted."""
    (one,) = found(f"  %c = bf16[{out}]{{0}} {opcode}(%x), channel_id=1, {ALL}\n")
    assert (one.kind, one.operand_bytes, one.group, one.dtype) == (opcode, 200, (0, 1, 2, 3), "bf16")
    assert one.wire_bytes == wire and not one.asynchronous


def test_a_permutation_goes_from_chip_to_chip():
    """Catches: its pairs not read; its bytes cut by a group's size."""
    (one,) = found("  %c = bf16[100]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,4},{4,0}}\n")
    assert (one.group, one.wire_bytes) == ((0, 4), 200)


def test_start_and_done_with_a_product_between():
    """Catches: a pair counted twice; a pair with nothing between that counts as overlapped; products elsewhere."""
    start = f"  %s = (bf16[100]{{0}}, bf16[400]{{0}}) all-gather-start(%x), channel_id=1, {ALL}\n"
    done = "  %d = bf16[400]{0} all-gather-done(%s)\n"
    (overlapped,) = found(start + PRODUCT + done)
    assert overlapped.asynchronous and overlapped.flops_meanwhile == 2000 and overlapped.wire_bytes == 600
    (idle,) = found(PRODUCT + start + done)
    assert idle.asynchronous and idle.flops_meanwhile == 0
    (synchronous,) = found(f"  %s = bf16[400]{{0}} all-gather(%x), channel_id=1, {ALL}\n" + PRODUCT)
    assert not synchronous.asynchronous and synchronous.flops_meanwhile == 0


PARTS = f"""%begin (p: bf16[100]) -> bf16[400] {{
  %p = bf16[100]{{0}} parameter(0)
  %g = bf16[400]{{0}} all-gather(%p), channel_id=7, {ALL}, metadata={{op_name="jit(f)/reshard"}}
  ROOT %s = (bf16[100]{{0}}, bf16[400]{{0}}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%beside (p: bf16[100], w: bf16[10,10]) -> bf16[10,10] {{
  %p = bf16[100]{{0}} parameter(0)
  %w = bf16[10,10]{{1,0}} parameter(1)
  %g.1 = bf16[400]{{0}} all-gather(%p), channel_id=7, {ALL}
  ROOT %y = bf16[10,10]{{1,0}} dot(%w, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%end (p: bf16[100]) -> bf16[400] {{
  %p = bf16[100]{{0}} parameter(0)
  %g.2 = bf16[400]{{0}} all-gather(%p), channel_id=7, {ALL}
  ROOT %d = bf16[400]{{0}} custom-call(%g.2), custom_call_target="AsyncCollectiveDone"
}}

"""


def test_what_is_left_of_an_all_reduce_is_one_too():
    """Catches: an all-reduce left out, as a reduce-scatter was made of some of its arrays and has its channel."""
    before = f"""%all-reduce-scatter.1 (p: bf16[100]) -> bf16[25] {{
  %p = bf16[100]{{0}} parameter(0)
  %r = bf16[100]{{0}} all-reduce(%p), channel_id=1, {ALL}
  ROOT %s = bf16[25]{{0}} slice(%r), slice={{[0:25]}}
}}

"""
    lines = "  %a = bf16[25]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1\n"
    lines += f"  %b = bf16[100]{{0}} all-reduce(%x), channel_id=1, {ALL}\n"
    assert [each.kind for each in found(lines, before)] == ["reduce-scatter", "all-reduce"]
    assert not any(each.asynchronous for each in found(lines, before))


def test_a_collective_in_parts_within_fusions_is_one():
    """Catches: each part counted as a collective of its own; the product beside a part not counted as meanwhile."""
    lines = """  %s = (bf16[100]{0}, bf16[400]{0}) fusion(%x), kind=kCustom, calls=%begin
  %f = bf16[10,10]{1,0} fusion(%x, %w), kind=kOutput, calls=%beside
  %d = bf16[400]{0} fusion(%x), kind=kCustom, calls=%end
"""
    (one,) = found(lines, before=PARTS)
    assert one.asynchronous and one.flops_meanwhile == 2000
    assert (one.wire_bytes, one.source) == (600, "jit(f)/reshard")


def test_a_tpu_s_reduce_scatter_is_recognised():
    """Catches: the fusion of an all-reduce and slices, which runs as a reduce-scatter, counted as an all-reduce."""
    before = f"""%all-reduce-scatter.1 (p: bf16[100]) -> bf16[25] {{
  %p = bf16[100]{{0}} parameter(0)
  %r = bf16[100]{{0}} all-reduce(%p), channel_id=3, {ALL}, to_apply=%add
  ROOT %s = bf16[25]{{0}} dynamic-slice(%r), dynamic_slice_sizes={{25}}
}}

"""
    (one,) = found("  %c = bf16[25]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1\n", before=before)
    assert (one.kind, one.wire_bytes) == ("reduce-scatter", 150)


ON_ANOTHER_CORE = f"""%sent (p: bf16[100], t: token[]) -> bf16[25] {{
  %t = token[] parameter(1)
  %p = bf16[100]{{0}} parameter(0)
  ROOT %r = bf16[25]{{0}} reduce-scatter(%p), channel_id=3, {ALL}, dimensions={{0}}, to_apply=%add
}}, execution_thread="sparsecore"

"""


def test_a_collective_that_another_core_does_meanwhile():
    """Catches: one that a SparseCore does not found, or taken for one that everything waits for."""
    lines = f"""  %t = token[] custom-call(), custom_call_target="PrepareAsyncCallDone"
  %s = ((bf16[100]{{0}}, token[]), bf16[25]{{0}}) call-start(%x, %t), to_apply=%sent
{PRODUCT}  %d = bf16[25]{{0}} call-done(%s)
"""
    (one,) = found(lines, before=ON_ANOTHER_CORE)
    assert (one.kind, one.wire_bytes) == ("reduce-scatter", 150)
    assert one.asynchronous and one.flops_meanwhile == 2000


@pytest.mark.parametrize(
    "text, group",
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 2)),
    ],
)
def test_groups(text, group):
    """Catches: an axis of the mesh taken for its neighbour; a transposition of the list of chips not done."""
    assert group_of(Instruction("c", (), "all-gather", (), f"), channel_id=1, {text}, dimensions={{0}}")) == group


def test_groups_of_an_unknown_form_are_refused():
    """Catches: a wrong number of chips, and so of bytes, without a word."""
    with pytest.raises(ValueError, match="found replica_groups=v9"):
        group_of(Instruction("c", (), "all-gather", (), "), replica_groups=v9, dimensions={0}"))
