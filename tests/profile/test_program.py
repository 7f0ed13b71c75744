"""The text of compiled programs, and the layers that their operations belong to."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.profile import program as module
from jaxnet.profile.program import Instruction, Run, Shape, bytes_of, flops_of, layer_of, parse

START = "jit(step)/transpose(jvp(net))"


@pytest.mark.parametrize(("op_name", "path", "backward"), [
    ("jit(f)/net/dense_1/dot_general", "net/dense_1", False),
    ("jit(f)/jvp(net)/dense/add", "net/dense", False),
    ("jit(f)/transpose(jvp(net))/dense/add", "net/dense", True),
    ("jit(f)/while/body/closed_call/jit(step)/jvp(net)/dense/add", "net/dense", False),
    ("jit(f)/net/vmap(member)/head/btf,fhd->bthd/dot_general", "net/member/head", False),
    ("jit(f)/net/dropout/jit(_bernoulli)/jit(_uniform)/add", "net/dropout", False),
    ("jit(f)/jit(_threefry_fold_in)/next_key/while", "", False),
    ("jit(f)/net/block/cond/branch_1_fun/dense/mul", "net/block/dense", False),
    # The forward pass once more, and the doubled names of JAX.
    (f"{START}/r/jvp(net)/r/checkpoint/dense/dot_general", "net/r/dense", True),
    (f"{START}/while/body/closed_call/r/d/r/d/checkpoint/rematted_computation/dot_general",
     "net/r/d", True),
    (f"{START}/while/body/closed_call/checkpoint/rematted_computation/d/add", "net/d", True),
    # JAX 0.12: another word for closed_call; the path once per loop around a jitted function.
    ("jit(f)/jvp(net)/block/while/body/eval_jaxpr/dense/add", "net/block/dense", False),
    (f"{START}/while/body/eval_jaxpr/r/d/r/d/checkpoint/rematted_computation/add", "net/r/d", True),
    ("jit(f)/jvp(net)/block/eval_jaxpr/while/body/eval_jaxpr/dense/add", "net/block/dense", False),
    ("jit(f)/net/while/body/eval_jaxpr/r/relu/r/relu/jit(relu)/max", "net/r/relu", False),
    ("jit(f)/net/while/body/eval_jaxpr/while/body/eval_jaxpr/r/a/r/a/r/a/jit(relu)/max", "net/r/a",
     False),
    # A layer may have that name.
    ("jit(f)/net/eval_jaxpr/add", "net/eval_jaxpr", False),
    ("jit(f)/jvp(net)/while/body/eval_jaxpr/eval_jaxpr/add", "net/eval_jaxpr", False),
    ("jit(f)/autoencoder/transpose(jvp(encoder))/add", "autoencoder/encoder", True),
    ("jit(f)/(transpose(jvp(net))/head/dot_general:jvp(net)/loss/add)", "net/head", True),
    ("jit(f)/jvp(net)/dense/broadcast_in_dim;jit(f)/jvp(net)/tanh/mul", "net/dense", False),
    ("jit(f)/add", "", False),
    ("train_state.params['a/b']", "", False),
    ("", "", False),
])  # fmt: skip
def test_layer_of(op_name, path, backward):
    assert layer_of(op_name) == (tuple(path.split("/")) if path else (), backward)


def total(function, *args):
    program = parse(jax.jit(function).lower(*args).compile().as_text())
    return sum(run.times * flops_of(run) for run in program.runs()), program


def convolve(**options):
    names = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: jax.lax.conv_general_dilated(x, w, dimension_numbers=names, **options)


@pytest.mark.parametrize(("function", "shapes", "products"), [
    pytest.param(jnp.matmul, [(7, 3), (3, 5)], 7 * 3 * 5, id="dense"),
    pytest.param(jnp.matmul, [(2, 7, 3), (2, 3, 5)], 2 * 7 * 3 * 5, id="batched"),
    pytest.param(convolve(window_strides=(1, 1), padding="VALID"), [(2, 6, 7, 3), (3, 2, 3, 5)],
     2 * (4 * 3) * (6 * 2) * 3 * 5, id="valid"),
    # 16 of 3 * 6 pairs along the axis of 6 hit a number, 2 * 7 - 1 along that of 7.
    pytest.param(convolve(window_strides=(1, 1), padding="SAME"), [(2, 6, 7, 3), (3, 2, 3, 5)],
     2 * 16 * 13 * 3 * 5, id="same"),
    pytest.param(convolve(window_strides=(2, 3), padding="VALID", feature_group_count=3),
     [(2, 6, 7, 3), (2, 1, 1, 6)], 2 * (3 * 2) * 3 * 6, id="strides and groups"),
    # Each of 4 outputs meets a number at one of the two places of the kernel.
    pytest.param(convolve(window_strides=(1, 1), padding=((0, 0), (0, 0)), lhs_dilation=(2, 1)),
     [(2, 3, 1, 3), (2, 1, 3, 5)], 2 * 4 * 3 * 5, id="zeros between"),
])  # fmt: skip
def test_flops_by_hand(function, shapes, products):
    args = [jn.spec(shape) for shape in shapes]
    assert total(function, *args)[0] == 2 * products
    # The compiler counts the same.
    if function is not jnp.matmul:
        compiled = jax.jit(function).lower(*args).compile()
        assert compiled.cost_analysis()["flops"] == 2 * products


def test_a_fusion_without_a_name_has_that_of_what_it_computes():
    def of(opcode, name="", rest=""):
        named = f'op_name="{name}" {rest}' if name else rest
        return Instruction("one", opcode, (Shape("f32", (3,)),), (), named, False)

    inside = {
        "a": of("add", "net/dense/add"),
        "b": of("tanh", "net/tanh"),
        "c": of("copy"),
    }
    program = module.Program({"fused": inside}, "main")
    assert program.origin(of("fusion", rest="calls=%fused")) == "net/tanh"
    assert program.origin(of("fusion", "net/exp", "calls=%fused")) == "net/exp"
    assert program.origin(of("while", rest="body=%fused")) == ""


def test_a_loop_counts_every_iteration_and_a_fusion_its_products():
    def run(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    found, program = total(run, jn.spec((7, 3)), jn.spec((4, 3, 3)))
    assert found == 4 * 2 * 7 * 3 * 3
    assert {run.times for run in program.runs()} == {1, 4}


def test_bytes_by_hand():
    _, program = total(lambda x: jnp.tanh(x) + 1, jn.spec((7, 3)))
    assert sum(bytes_of(run, program) for run in program.runs()) == 2 * 4 * 7 * 3
    # A slice, not the whole, however it is fused.

    def two_rows(x, i):
        return jax.lax.dynamic_slice_in_dim(x, i, 2) * 2

    _, sliced = total(two_rows, jn.spec((90, 3)), jn.spec((), jnp.int32))
    assert sum(bytes_of(run, sliced) for run in sliced.runs()) <= 2 * 4 * 2 * 3 + 8


def test_an_update_in_place_counts_what_it_writes():
    def run(x):
        def change(x, i):
            return jax.lax.dynamic_update_index_in_dim(x, x[0] + 1, i, 0), None

        return jax.lax.scan(change, x, jnp.arange(4))[0]

    program = total(run, jn.spec((5, 1000)))[1]
    found = sum(run.times * bytes_of(run, program) for run in program.runs())
    assert 4 * 2 * 4 * 1000 <= found < 4 * 4 * 4 * 1000 + 3 * 4 * 5000  # and copies at the ends


CONV = 'custom-call(%a, %b), custom_call_target="jaxnet_conv", backend_config={form = dense<[@]>}'
SLICED = """%f (p: f32[90,3], i: s32[]) -> f32[2,3] {
  %p = f32[90,3] parameter(0)
  %i = s32[] parameter(1)
  %s = f32[2,3] dynamic-slice(%p, %i, %i), dynamic_slice_sizes={2,3}
  ROOT %r = f32[2,3] tanh(%s)
}
"""
UPDATED = """%f (p: f32[5,7], i: s32[], u: f32[1,7]) -> f32[5,7] {
  %p = f32[5,7] parameter(0)
  %i = s32[] parameter(1)
  %u = f32[1,7] parameter(2)
  ROOT %r = f32[5,7] dynamic-update-slice(%p, %u, %i, %i)
}
"""


ATTENDED = ["f32[2,20,4,5]", "f32[2,30,2,5]", "f32[2,30,2,7]"]
ATTENTION = 'custom-call(%a, %b, %c), custom_call_target="jaxnet_attention"'
CUBLAS = (
    'custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={'
    '"gemm_backend_config":{"dot_dimension_numbers":{'
    '"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}'
)


@pytest.mark.parametrize(("body", "given", "out", "line", "flops", "count"), [
    # 2 nets of 3 images: 5 x 7 pixels of 4 features by kernels of 3 x 2 to 6 features.
    pytest.param("", ["f32[2,3,1,5,7,4]", "f32[2,1,3,2,4,6]"], "f32[2,3,1,3,6,6]",
                 CONV.replace("@", "0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1"),
                 2 * 2 * 3 * (3 * 3) * (6 * 2) * 4 * 6, 4 * (840 + 288 + 648), id="VALID in C"),
    pytest.param("", ["f32[2,3,1,5,7,4]", "f32[2,1,3,2,4,6]"], "f32[2,3,1,3,6,6]",
                 CONV.replace("form = dense<[@]>", "other = 1"),
                 0, 4 * (840 + 288 + 648), id="unknown in C"),
    # 2 examples of 4 heads: each of 20 queries of size 5 sees 30 places with values of size 7.
    pytest.param("", ATTENDED, "f32[2,20,4,7]", ATTENTION, 2 * 2 * 4 * 20 * 30 * (5 + 7),
                 4 * (800 + 600 + 840 + 1120), id="attention in C"),
    pytest.param("", ATTENDED, "f32[2,20,4,7]", ATTENTION.replace('attention"', 'attention_back"'),
                 2 * 2 * 4 * 20 * 30 * (3 * 5 + 2 * 7), 4 * (800 + 600 + 840 + 1120), id="back"),
    pytest.param("", ["f32[2,7,3]{2,1,0}", "f32[2,3,5]{2,1,0}"],
                 "(f32[2,7,5]{2,1,0}, s8[4194304]{0})", CUBLAS,
                 2 * 2 * 7 * 3 * 5, 4 * (42 + 30 + 70) + 4194304, id="cuBLAS"),
    # Along 5 pixels, strides of 2 and one of padding meet 2 + 3 + 2; along 7, strides of 3 and
    # dilation of 2 meet 2 + 2.
    pytest.param("", ["f32[2,3,1,5,7,4]", "f32[2,1,3,2,4,6]"], "f32[2,3,1,3,2,6]",
                 CONV.replace("@", "0, 1, 1, 2, 3, 1, 1, 2, 0, 1, 0, 1, 1, 1"),
                 2 * 2 * 3 * 7 * 4 * 4 * 6, 4 * (840 + 288 + 216), id="conv in C"),
    # A zero between 3 pixels: each of 4 windows of 2 meets one. The second axis has one pixel.
    pytest.param("", ["f32[1,2,1,3,1,4]", "f32[1,1,2,1,4,6]"], "f32[1,2,1,4,1,6]",
                 CONV.replace("@", "0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 2, 1"),
                 2 * 2 * 4 * 4 * 6, 4 * (24 + 48 + 48), id="transposed in C"),
    pytest.param("", ["f32[9,2,12]", "f32[3,12]"], "f32[9,2,3]",
                 'custom-call(%a, %b), custom_call_target="jaxnet_lstm_forward"',
                 2 * 9 * 2 * 3 * 12, 4 * (216 + 36 + 54), id="LSTM in C"),
    pytest.param("", ["f32[9,2,3]", "f32[3,3]"], "f32[9,2,3]",
                 'custom-call(%a, %b), custom_call_target="jaxnet_rnn"',
                 2 * 9 * 2 * 3 * 3, 4 * (54 + 9 + 54), id="RNN in C"),
    pytest.param("", ["f32[6,5,7]", "s32[3]"], "f32[2,5,7]", "gather(%a, %b), offset_dims={1}",
                 0, 2 * 4 * 70, id="gather"),
    pytest.param("", ["f32[6,5]", "f32[2,5]", "s32[]"], "f32[6,5]",
                 "dynamic-update-slice(%a, %b, %c, %c)", 0, 2 * 4 * 10, id="update"),
    pytest.param("", ["f32[6,5]"], "(f32[6,5], s8[6])", "sort(%a)", 0, 4 * 30 * 2 + 6, id="two"),
    pytest.param(SLICED, ["f32[90,3]", "s32[]"], "f32[2,3]", "fusion(%a, %b), calls=%f",
                 0, 24 + 24 + 4, id="fused slice"),
    pytest.param(UPDATED, ["f32[5,7]", "s32[]", "f32[1,7]"], "f32[5,7]",
                 "fusion(%a, %b, %c), calls=%f", 0, 28 + 28 + 4, id="fused update"),
])  # fmt: skip
def test_texts_by_hand(body, given, out, line, flops, count):
    lines = []
    for i, (name, kind) in enumerate(zip("abc", given, strict=False)):
        lines.append(f"  %{name} = {kind} parameter({i})")
    head = f"ENTRY %main (a: {given[0]}) -> {out} {{"
    text = "\n".join(["HloModule jit_f", "", body + head, *lines, f"  ROOT %y = {out} {line}", "}"])
    program = parse(text)
    assert sum(flops_of(run) for run in program.runs()) == flops
    assert sum(bytes_of(run, program) for run in program.runs()) == count


@pytest.mark.parametrize(("dtype", "size"), [
    ("f32", 60), ("pred", 15), ("s4", 7), ("c128", 240), ("f8e4m3fn", 15),
])  # fmt: skip
def test_bytes_of_a_shape(dtype, size):
    assert Shape(dtype, (3, 5)).bytes == size


def test_what_is_not_understood_is_no_work():
    vector = Shape("f32", (3,))
    one = Instruction("x", "convolution", (vector,), ("a", "b"), "", False)
    assert flops_of(Run(one, (vector, vector), 1, False)) == 0
    assert list(parse("HloModule nothing\n").runs()) == []


@pytest.mark.parametrize(("text", "first", "rest"), [
    ("f32[2]{0} add(%a, %b)", "f32[2]{0}", "add(%a, %b)"),
    ("(f32[2], (s32[], pred[]))  tuple(%a)", "(f32[2], (s32[], pred[]))", "tuple(%a)"),
    ("(f32[2]", "(f32[2]", ""),
])  # fmt: skip
def test_a_type_is_cut_from_a_line(text, first, rest):
    assert module.first_word(text) == (first, rest)
