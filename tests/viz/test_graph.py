import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import viz
from jaxnet.viz.graph import BACKWARD, FORWARD


def product(x, y, z):
    return (x + y) * z


def neuron(w0, x0, w1, x1, w2):
    total = w0 * x0 + w1 * x1 + w2
    return 1 / (1 + jnp.exp(-total))


def many_ways(x, y):
    a = x * x + jnp.maximum(x, y) * jnp.sin(x)
    return a * y + jnp.exp(a) * x


def drawn(f, *args, **options):
    return viz.graph(jn.inspect.graph(f, *args), **options)


def words(figure, color=None):
    texts = figure.axes[0].texts
    return [t.get_text() for t in texts if color is None or t.get_color() == color]


def test_values_above_and_gradients_below():
    figure = drawn(product, -2, 5, -4)
    assert words(figure)[:6] == ["x", "y", "z", "+", "×", "product"]
    assert words(figure, FORWARD) == ["−2", "5", "3", "−4", "−12"]
    assert words(figure, BACKWARD) == ["−4", "−4", "−4", "3", "1"]
    texts = figure.axes[0].texts[6:]
    for above, below in zip(texts[::2], texts[1::2], strict=True):
        x, y = above.get_position()
        x_below, y_below = below.get_position()
        assert x == x_below
        assert 0 < y - y_below < 0.1


def test_the_sum_over_copies_stands_below_the_box():
    assert "Σ 10" in words(drawn(lambda x: x * x + 4 * x, 3))


@pytest.mark.slow
def test_digits():
    assert "0.731" in words(drawn(neuron, 2, -1, -3, -2, -3))
    assert "0.73" in words(drawn(neuron, 2, -1, -3, -2, -3, digits=2))


@pytest.mark.parametrize(("f", "args"), [
    (product, (-2, 5, -4)),
    (neuron, (2, -1, -3, -2, -3)),
    (many_ways, (1.5, 2)),
    (lambda x, unused: jnp.sum(jnp.tanh(x @ x.T)), (np.ones((2, 3)), 1)),
])  # fmt: skip
def test_nothing_overlaps_and_nothing_is_cut_off(f, args):
    """Boxes and words, in pixels, as drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn(f, *args)
    (axes,) = figure.axes
    render = FigureCanvasAgg(figure).get_renderer()
    boxes = [p for p in axes.patches if p.get_zorder() == 3]
    labels = [t for t in axes.texts if t.get_color() != "black"]
    extents = [a.get_window_extent(render) for a in (*boxes, *labels)]
    whole = figure.bbox
    for e in extents:
        assert whole.x0 <= e.x0 < e.x1 <= whole.x1
        assert whole.y0 <= e.y0 < e.y1 <= whole.y1
    for a, b in itertools.combinations(extents, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 2 or high <= 4  # glyphs do not fill the height of their line
    inside = [t for t in axes.texts if t.get_color() == "black"]
    for box, text in zip(boxes, inside, strict=True):
        box = box.get_window_extent(render)
        text = text.get_window_extent(render)
        assert box.x0 <= text.x0
        assert text.x1 <= box.x1


def test_lines_go_round_boxes():
    """A value that is used far away passes the boxes between."""
    axes = drawn(lambda x: jnp.sin(jnp.cos(jnp.exp(x))) * x, 1.0).axes[0]
    boxes = [p for p in axes.patches if p.get_zorder() == 3]
    lines = [p for p in axes.patches if p.get_zorder() == 2]
    for line in lines:
        (path, *_), _ = line._get_path_in_displaycoord()
        for box in boxes:
            inner = box.get_window_extent().padded(-3)
            for point in path.interpolated(20).vertices:
                assert not inner.contains(*point)


def test_inputs_at_the_left_and_the_output_at_the_right():
    g = jn.inspect.graph(neuron, 2, -1, -3, -2, -3)
    boxes = viz.graph(g).axes[0].texts[: len(g.nodes)]
    x = [text.get_position()[0] for text in boxes]
    assert set(x[:5]) == {min(x)}
    assert np.argmax(x) == len(x) - 1
    assert all(x[e.source] < x[e.target] for e in g.edges)


@pytest.mark.slow
def test_arrays_show_shape_and_norm():
    net = jn.dense(3)
    params, _ = net.init(jax.random.key(0), jn.spec((4, 2)))

    def f(params, x):
        y, _ = net.apply(params, {}, x)
        return jnp.sum(y)

    figure = drawn(f, params, np.ones((4, 2)))
    assert "(4, 2) ‖2.83‖" in words(figure)


def test_a_function_is_answered():
    with pytest.raises(TypeError, match=r"got function; write graph\(jn.inspect.graph\(f, x\)\)"):
        viz.graph(product)
