"""Scheduled HLO, read: types, operands, how often loops are done."""

import pytest

from lfr_jax.compile.hlo import Array, executed, parse

# What a scan of 5 steps within a scan of 3 looks like on a TPU, cut short.
NESTED = """HloModule jit_f, is_scheduled=true

%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8]{0:T(128)S(1)} get-tuple-element(%p), index=1
  ROOT %t = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) tuple(%at, %x)
}

%inner_condition (q: (s32[], f32[8], s32[])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=0
  %n = s32[]{:T(128)} get-tuple-element(%q), index=2
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT, metadata={op_name="jit(f)/while/cond/lt"}
}

%compared (a: s32[], b: s32[]) -> pred[] {
  %a = s32[]{:T(128)} parameter(0)
  %b = s32[]{:T(128)} parameter(1)
  ROOT %more = pred[]{:T(512)} compare(%b, %a), direction=GT
}

%outer_condition (r: (s32[], f32[8])) -> pred[] {
  %r = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %three = s32[]{:T(128)} constant(3)
  %j = s32[]{:T(128)} get-tuple-element(%r), index=0
  ROOT %fused = pred[]{:T(512)} fusion(%j, %three), kind=kLoop, calls=%compared
}

%outer (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %y = f32[8]{0:T(128)} get-tuple-element(%s), index=1
  %zero = s32[]{:T(128)} constant(0)
  %five = s32[]{:T(128)} constant(5)
  %bound = s32[]{:T(128)} copy(%five)
  %init = (s32[]{:T(128)}, f32[8]{0:T(128)}, /*index=2*/s32[]{:T(128)}) tuple(%zero, %y, /*index=2*/%bound)
  ROOT %w = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%init), condition=%inner_condition, body=%inner
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(128)} parameter(0)
  %z = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%z, %x)
  %loop = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%start), condition=%outer_condition, body=%outer
  %kernel = f32[8]{0:T(128)} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={metadata={
"block": "{\\"size\\": 128}"
}}, metadata={op_name="jit(f)/(a)/kernel"}
  ROOT %out = f32[8]{0:T(128)} get-tuple-element(%loop), index=1
}
"""


def test_loops_within_loops_are_counted():
    """Catches: a body counted once; a limit that is carried, or compared within a fusion, not found; a comparison
    written the other way round; the inner loop not multiplied by the outer one."""
    module = parse(NESTED)
    names = {id(computation): name for name, computation in module.computations.items()}
    assert [(names[id(done.computation)], done.times, done.known) for done in executed(module)] == [
        ("main", 1, True),
        ("outer", 3, True),
        ("inner", 15, True),
    ]


def test_a_length_that_xla_wrote_down_is_used():
    """Catches: the compiler's own count not read; it comes first, as it knows more than the condition says."""
    known = 'body=%outer, backend_config={"known_trip_count":{"n":"7"}}'
    assert [done.times for done in executed(parse(NESTED.replace("body=%outer", known)))] == [1, 7, 35]


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    """Catches: a guess that looks like a count."""
    unknown = NESTED.replace("%three = s32[]{:T(128)} constant(3)", "%three = s32[]{:T(128)} rng-bit-generator(%j)")
    assert [(done.times, done.known) for done in executed(parse(unknown))] == [(1, True), (1, False), (5, False)]


def test_types_operands_and_attributes():
    """Catches: a memory space lost in the layout; comments among operands; line breaks within an attribute, which end
    no instruction."""
    computation = parse(NESTED).computations["inner"]
    assert computation["p"].arrays == (Array("s32", (), 0), Array("f32", (8,), 1))
    assert computation["p"].arrays[1].bytes == 32
    outer, entry = parse(NESTED).computations["outer"], parse(NESTED).computations["main"]
    assert outer["init"].operands == ("zero", "y", "bound")
    assert outer["w"].calls == ("inner",)
    assert entry["kernel"].attribute("custom_call_target") == "tpu_custom_call"
    assert entry["kernel"].attribute("op_name") == "jit(f)/(a)/kernel"
    assert list(entry) == ["x", "z", "start", "loop", "kernel", "out"]


def test_what_is_no_program_is_refused():
    """Catches: an empty text that looks like a program without collectives."""
    with pytest.raises(ValueError, match="no ENTRY computation in a text of 9 characters"):
        parse("%f () {\n}")
