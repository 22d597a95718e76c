"""Facts read from a compiled program's text, on texts as XLA writes them."""

from charjax.performance import compiled_text

HLO = """\
HloModule jit_run_chunk, entry_computation_layout={(f32[27,27]{1,0})->f32[27,27]{1,0}}

%sum.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%inner.2 (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[], f32[8]{0}) parameter(0)
  %h = f32[8]{0} get-tuple-element(%q), index=1
  ROOT %t = (s32[], f32[8]{0}) tuple(%h, %h)
}

%body.3 (p: (s32[], f32[731])) -> (s32[], f32[731]) {
  %p = (s32[], f32[731]{0}) parameter(0)
  %all-reduce.3 = f32[731]{0} all-reduce(%w), to_apply=%sum.1, metadata={op_name="step/psum"}
  %all-reduce-start = (f32[4]{0}, f32[4]{0}) all-reduce-start(%v), to_apply=%sum.1
  %all-reduce-done = f32[4]{0} all-reduce-done(%all-reduce-start)
  %kernel = f32[8]{0} custom-call(%p), custom_call_target="__cublas$gemm"
  %while.1 = (s32[], f32[8]{0}) while(%x), condition=%cond.4, body=%inner.2
  ROOT %tuple = (s32[], f32[731]{0}) tuple(%i, %all-reduce.3)
}

%cond.4 (p: (s32[], f32[731])) -> pred[] {
  %p = (s32[], f32[731]{0}) parameter(0)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[27,27]) -> f32[27,27] {
  %x = f32[27,27]{1,0} parameter(0)
  %while.2 = (s32[], f32[731]{0}) while(%x), condition=%cond.4, body=%body.3
  %all-gather = bf16[16]{0} all-gather(%x), dimensions={0}
  ROOT %out = f32[27,27]{1,0} copy(%x)
}
"""
LOOP = """\
001: kCopy         [source       | next=003 (1)] kCopy
003: kWhile        [prev=001 (1) | next=023 (1)]
condition:
    004: kCustomKernel [source | sink] loop_and_fusion grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source | sink]
        005: kWhile        [source | sink]
condition:
            006: kCustomKernel [source | sink] loop_and_fusion
          body:
            007: kCustomKernel [source | sink] loop_add_fusion
    015: kAllReduce     [prev=000 (1) | next=000 (1)] kAllReduce
"""
GRAPH = """\
000: kCommandBuffer [source | sink]
    003: kWhile        [prev=002 (1) | next=023 (1)]
condition:
        004: kCustomKernel [source | sink] loop_and_fusion grid: [1, 1, 1]
      body:
        005: kCustomCall [source | sink] flash attention
"""


def test_collectives_and_the_loops_around_them() -> None:
    found = {(each.kind, each.bytes, each.loops) for each in compiled_text.collectives(HLO)}
    assert found == {("all-reduce", 2924, 1), ("all-reduce", 16, 1), ("all-gather", 32, 0)}
    (named,) = [each for each in compiled_text.collectives(HLO) if each.source]
    assert (named.dtypes, named.source) == (("f32",), "step/psum")


def test_a_collective_in_a_loop_of_the_step() -> None:
    text = HLO.replace("ROOT %t = ", "%r = f32[8]{0} all-reduce(%h)\n  ROOT %t = ")
    assert ("all-reduce", 2) in [
        (each.kind, each.loops) for each in compiled_text.collectives(text)
    ]


def test_custom_calls() -> None:
    assert compiled_text.custom_calls(HLO) == {"__cublas$gemm"}


def test_what_the_host_takes_part_in() -> None:
    assert compiled_text.host_calls(HLO) == []
    for planted in (
        "%s = (f32[], u32[], token[]) send(%p, %tok), is_host_transfer=true",
        '%s = f32[] custom-call(%p), custom_call_target="xla_ffi_python_gpu_callback"',
        "%s = (f32[]{:T(128)S(5)}, f32[]{:T(128)}, u32[]{:S(2)}) copy-start(%p)",
        "%s = f32[8]{0:S(5)} copy(%p)",
        "%s = ((f32[8]{0}), token[]) infeed(%tok)",
    ):
        in_loop = HLO.replace("  ROOT %tuple =", f"  {planted}\n  ROOT %tuple =")
        assert len(compiled_text.host_calls(in_loop)) == 1, planted
        before = HLO.replace("  ROOT %out =", f"  {planted}\n  ROOT %out =")
        assert compiled_text.host_calls(before) == [], "once for all steps"


def test_a_loop_outside_of_a_graph_waits_for_the_host() -> None:
    assert compiled_text.host_waits(GRAPH) == []
    assert len(compiled_text.host_waits(LOOP)) == 1
    split = LOOP.replace("        005: kWhile", "    005: kWhile")
    assert len(compiled_text.host_waits(split)) == 2


def test_work_of_the_host_in_a_gpus_program() -> None:
    for planted in ("kHostExecuteStart", "kOutfeed", "kHostRecv"):
        assert compiled_text.host_waits(GRAPH.replace("kCustomCall", planted)), planted
    outside = LOOP.replace("kAllReduce     [", "kCustomCall    [")
    assert len(compiled_text.host_waits(outside)) == 2
