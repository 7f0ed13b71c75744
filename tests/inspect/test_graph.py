import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.inspect.graph import graph, short


def nodes(g):
    """Label -> (value, gradient); labels that repeat are numbered."""
    found = {}
    for node in g.nodes:
        number = sum(name.split("#")[0] == node.label for name in found)
        label = f"{node.label}#{number}" if number else node.label
        found[label] = node.value, node.gradient
    return found


def numbers(g):
    found = {}
    for name, (value, gradient) in nodes(g).items():
        found[name] = float(value), float(gradient)
    return found


def edges(g):
    labels = [node.label for node in g.nodes]
    found = []
    for edge in g.edges:
        ends = labels[edge.source], labels[edge.target]
        found.append((*ends, float(edge.value), float(edge.gradient)))
    return found


def test_the_lecture_s_product_of_a_sum():
    g = graph(lambda x, y, z: (x + y) * z, -2, 5, -4)
    assert numbers(g) == {
        "x": (-2, -4), "y": (5, -4), "z": (-4, 3), "+": (3, -4), "×": (-12, 1), "f": (-12, 1)
    }  # fmt: skip
    assert edges(g) == [
        ("x", "+", -2, -4), ("y", "+", 5, -4), ("+", "×", 3, -4), ("z", "×", -4, 3),
        ("×", "f", -12, 1),
    ]  # fmt: skip
    assert [node.kind for node in g.nodes] == ["input"] * 3 + ["operation"] * 2 + ["output"]


NEURON = {"w0": -0.20, "x0": 0.39, "w1": -0.39, "x1": -0.59, "w2": 0.20}  # the slide's gradients


def test_the_sigmoid_neuron_operation_by_operation():
    def neuron(w0, x0, w1, x1, w2):
        total = w0 * x0 + w1 * x1 + w2
        return 1 / (1 + jnp.exp(-total))

    found = numbers(graph(neuron, 2, -1, -3, -2, -3))
    assert {name: round(found[name][1], 2) for name in NEURON} == NEURON
    chain = {}
    for name in ("×−1", "exp", "+1", "1/x"):
        value, gradient = found[name]
        chain[name] = round(value, 2), round(gradient, 2)
    wanted = {
        "×−1": (-1, -0.20),
        "exp": (0.37, -0.53),
        "+1": (1.37, -0.53),
        "1/x": (0.73, 1),
    }
    assert chain == wanted
    values = [found[name][0] for name in ("×", "×#1", "+", "+#1")]
    assert values == [-2, 6, 4, 1]


def test_the_sigmoid_gate_passes_on_a_fifth():
    """σ(1) = 0.73, and the gate's gradient is σ(1 − σ) = 0.20."""

    def neuron(w0, x0, w1, x1, w2):
        return jax.nn.sigmoid(w0 * x0 + w1 * x1 + w2)

    g = graph(neuron, 2, -1, -3, -2, -3)
    found = numbers(g)
    s = 1 / (1 + np.exp(-1.0))
    assert found["σ"] == (pytest.approx(s, abs=1e-6), 1)
    (gate,) = [edge for edge in edges(g) if edge[1] == "σ"]
    _, _, value, gradient = gate
    assert value == 1
    assert gradient == pytest.approx(s * (1 - s), abs=1e-6)
    assert (round(s, 2), round(gradient, 2)) == (0.73, 0.20)
    assert {name: round(found[name][1], 2) for name in NEURON} == NEURON


def test_max_routes():
    found = numbers(graph(lambda x, y: 5 * jnp.maximum(x, y), 2, 3))
    assert found["max"] == (3, 5)
    assert (found["x"][1], found["y"][1]) == (0, 5)


def test_a_copy_adds():
    """x goes three ways; each edge has its own gradient, the node their sum."""
    g = graph(lambda x: x * x + 4 * x, 3)
    assert [e[3] for e in edges(g) if e[0] == "x"] == [3, 3, 4]
    assert numbers(g)["x"] == (3, 10)


@pytest.mark.slow
def test_intermediate_gradients_are_those_of_perturbations():
    def f(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2) / 3

    def perturbed(add):
        return jnp.sum(jnp.tanh(x @ w + add) ** 2) / 3

    w = jax.random.normal(jax.random.key(0), (4, 2))
    x = jnp.arange(12.0).reshape(3, 4) / 10
    found = nodes(graph(f, w, x))
    for_w, for_x = jax.jit(jax.grad(f, (0, 1)))(w, x)
    np.testing.assert_allclose(found["w"][1], for_w, atol=1e-6)
    np.testing.assert_allclose(found["x"][1], for_x, atol=1e-6)
    slope = jax.jit(jax.grad(perturbed))(jnp.zeros((3, 2)))
    np.testing.assert_allclose(found["@"][1], slope, atol=1e-6)
    np.testing.assert_allclose(found["@"][0], x @ w, atol=1e-6)
    assert list(found) == ["w", "x", "@", "tanh", "x²", "Σ", "÷3", "f"]


def test_functions_under_jit_are_looked_into_and_derivatives_of_their_own_kept():
    g = graph(jax.jit(lambda x: jax.nn.relu(x) + jax.jit(jnp.sin)(x)), 0.0)
    assert list(nodes(g)) == ["x", "relu", "sin", "+", "f"]
    # max(x, 0) would pass half of the gradient at 0; relu says 0
    assert [e[3] for e in edges(g)] == [0, 1, 1, 1, 1]


def test_a_wrong_derivative_is_shown_as_it_is():
    @jax.custom_vjp
    def square(x):
        return x**2

    def forward(x):
        return x**2, x

    def backward(x, g):
        return (7 * x * g,)

    square.defvjp(forward, backward)
    assert numbers(graph(square, 3))["x"] == (3, 21)


@pytest.mark.parametrize(("f", "label", "value", "gradient"), [
    (lambda x: x - 1, "−1", 1.0, 1.0),
    (lambda x: 1 - x, "1−x", -1.0, -1.0),
    (lambda x: x / 4, "÷4", 0.5, 0.25),
    (lambda x: 4 / x, "4/x", 2.0, -1.0),
    (lambda x: x**1.5, "x^1.5", 2.0**1.5, 1.5 * 2**0.5),
    (lambda x: jnp.maximum(x, 0.5), "max(0.5, x)", 2.0, 1.0),
    (jnp.sqrt, "√", 2**0.5, 0.5 / 2**0.5),
    (jnp.log, "log", np.log(2), 0.5),
    (jax.nn.softplus, "logaddexp", np.log1p(np.exp(2)), 1 / (1 + np.exp(-2))),
])  # fmt: skip
def test_signs(f, label, value, gradient):
    g = graph(f, 2)
    assert g.nodes[1].label == label
    assert len(g.nodes) == 3
    assert float(g.nodes[1].value) == pytest.approx(value, rel=1e-6)
    assert float(g.nodes[0].gradient) == pytest.approx(gradient, rel=1e-6)


def test_conditions_have_no_gradient():
    found = nodes(graph(lambda x: jnp.where(x > 1, x, 3.0) * 2, 2))
    assert found["x > 1"][0]
    assert found["x > 1"][1] is None
    assert found["where"] == (2, 2)
    assert float(found["x"][1]) == 2


def test_several_results_of_one_operation():
    def f(x):
        a, b = jnp.split(x, 2)
        return jnp.sum(a * b)

    g = graph(f, jnp.array([2.0, 3.0]))
    node = next(node for node in g.nodes if node.label == "split")
    np.testing.assert_array_equal(node.value, [[2], [3]])
    np.testing.assert_array_equal(node.gradient, [[3], [2]])
    np.testing.assert_array_equal(g.nodes[0].gradient, [3, 2])


def test_control_flow_and_remat():
    def f(x):
        return jax.lax.cond(x > 0, jnp.sin, jnp.cos, x) + jax.checkpoint(jnp.sin)(x)

    g = graph(f, 1.5)
    assert float(g.nodes[0].gradient) == pytest.approx(2 * np.cos(1.5), rel=1e-6)
    assert "sin" in [node.label for node in g.nodes]


def test_names_of_arguments_and_of_their_leaves():
    def f(params, *xs):
        return params["w"] * xs[0] + xs[1]

    g = graph(f, {"w": 3.0}, 4.0, 2)
    assert [node.label for node in g.nodes if node.kind == "input"] == ["params/w", "xs0", "xs1"]


def test_numbers_of_a_program_are_no_nodes_and_its_arrays_are():
    def f(x):
        three = jax.jit(lambda: jnp.exp(0.0) + 2)()  # operations on numbers alone
        return x.astype(x.dtype) * three + jax.lax.full((2,), three).sum()

    g = graph(f, 5.0)
    found = [(node.label, np.asarray(node.value).tolist()) for node in g.nodes]
    assert found[0] == ("x", 5)
    assert ("×3", 15) in found
    assert ("constant", [3, 3]) in found
    assert float(g.nodes[-1].value) == 21
    assert float(g.nodes[0].gradient) == 3
    assert len(found) == 6  # the sum of the array, the sum of both, and f


def test_constants_and_unused_arguments():
    k = jnp.arange(3.0)
    g = graph(lambda x, unused: jnp.sum(k * x), jnp.ones(3), 5)
    constant = next(node for node in g.nodes if node.kind == "constant")
    np.testing.assert_array_equal(constant.value, k)
    np.testing.assert_array_equal(constant.gradient, np.ones(3))
    assert float(nodes(g)["unused"][1]) == 0
    assert float(graph(lambda x: jnp.float32(3), 2).nodes[-1].value) == 3


def test_float64(x64):
    x = np.array([0.5, -0.2])
    g = graph(lambda w, x: jax.nn.sigmoid(w @ x), np.array([-0.8, 0.3]), x)
    s = 1 / (1 + np.exp(0.46))
    np.testing.assert_allclose(g.nodes[0].gradient, s * (1 - s) * x, rtol=1e-12)


@pytest.mark.parametrize("f", [lambda x: x > 0, lambda x: (x, x)])
def test_one_float_is_needed(f):
    words = r"graph: f must return one float, got .*; return its mean"
    with pytest.raises(ValueError, match=words):
        graph(f, 2.0)


def test_prints():
    g = graph(lambda x, y: x * y, 2, 3)
    lines = str(g).splitlines()
    assert lines[3].split() == ["0", "x", "2", "3"]
    assert lines[5].split() == ["2", "×", "0,", "1", "6", "1"]
    ElementTree.fromstring(g._repr_html_())


def test_short():
    assert short(np.float32(-0.5901)) == "−0.59"
    assert short(-0.0) == "0"
    assert short(np.array([3.0, 4.0])) == "(2,) ‖5‖"
    assert short((1.0, None)) == "1, "
    assert short(np.True_) == "True"
