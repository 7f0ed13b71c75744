"""The same programs in Equinox, with copied weights: nets of one example, modules, filters."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree

eqx = pytest.importorskip("equinox")

KEYS_MAY_REPEAT = True  # modules whose weights are replaced
KEY = jax.random.key(19)


def array(*shape, seed=0):
    return jnp.asarray(draw(*shape, seed=seed), jnp.float32)


def with_linear(entries, linear):
    """A linear layer of Equinox with our params."""
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), linear, (entries["kernel"].T, entries["bias"])
    )


def as_mlp(params, sizes):
    """An MLP of Equinox with the params of `jn.serial(jn.dense(...), jnp.tanh, ...)`."""
    mlp = eqx.nn.MLP(sizes[0], sizes[-1], sizes[1], len(sizes) - 2, jnp.tanh, key=KEY)
    names = [name for name in ("dense", "dense_1", "dense_2") if name in params]
    layers = tuple(
        with_linear(params[name], layer) for name, layer in zip(names, mlp.layers, strict=True)
    )
    return eqx.tree_at(lambda mlp: mlp.layers, mlp, layers)


NET = jn.serial(jn.dense(5), jnp.tanh, jn.dense(3))
X = array(4, 3)
PARAMS, _ = NET.init(KEY, X)


def ours(params, x):
    """One example, as Equinox has it."""
    return NET.apply(params, {}, x[None])[0][0]


def test_a_net_of_one_example_is_mapped():
    agree(
        lambda params, x: jax.vmap(lambda x: ours(params, x))(x),
        lambda params, x: jax.vmap(as_mlp(params, (3, 5, 3)))(x),
        PARAMS,
        X,
    )


def test_a_neural_ode_by_heun():
    def solve(f, x):
        def step(x, _):
            slope = f(x)
            return x + 0.1 * (slope + f(x + 0.2 * slope)), None

        return jax.lax.scan(step, x, length=3)[0]

    field = jn.serial(jn.dense(5), jnp.tanh, jn.dense(3), name="field")
    net = jn.compose(lambda m, x: solve(lambda x: m(field, x), x), name="ode")
    params, state = net.init(KEY, X)
    agree(
        lambda params: net.apply(params, state, X)[0],
        lambda params: solve(jax.vmap(as_mlp(params["field"], (3, 5, 3))), X),
        params,
    )


def test_the_jacobian_of_each_example():
    agree(
        lambda params: jax.vmap(jax.jacrev(lambda x: ours(params, x)))(X),
        lambda params: jax.vmap(jax.jacfwd(as_mlp(params, (3, 5, 3))))(X),
        PARAMS,
    )


@pytest.mark.slow
def test_a_gated_recurrent_cell_over_time():
    """A cell of `m.scan` against a cell of Equinox in `lax.scan`; its gates are in one matrix."""
    x = array(6, 2, 3)

    def gates(h, x, of_x, of_h, extra):
        (r, z, n), (hr, hz, hn) = jnp.split(of_x(x), 3, -1), jnp.split(of_h(h), 3, -1)
        r, z = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
        n = jnp.tanh(n + r * (hn + extra))
        return n + z * (h - n)

    def forward(m, x):
        of_x, of_h = jn.dense(12, name="x"), jn.dense(12, use_bias=False, name="h")
        extra = m.param("extra", jn.initializers.normal(0.5), (4,))

        def turn(m, h, x):
            h = gates(h, x, lambda x: m(of_x, x), lambda h: m(of_h, h), extra)
            return h, h

        return m.scan(turn, jnp.zeros((2, 4)), x)[1]

    net = jn.compose(forward)
    params, state = net.init(KEY, x)

    def theirs(params):
        cell = eqx.nn.GRUCell(3, 4, key=KEY)
        weights = params["x"]["kernel"].T, params["h"]["kernel"].T, params["x"]["bias"]
        cell = eqx.tree_at(
            lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias, cell.bias_n),
            cell,
            (*weights, params["extra"]),
        )

        def turn(h, x):
            h = jax.vmap(cell)(x, h)
            return h, h

        return jax.lax.scan(turn, jnp.zeros((2, 4)), x)[1]

    agree(lambda params: net.apply(params, state, x)[0], theirs, params)


@pytest.mark.slow
def test_a_convolution_with_groups_of_channels_first():
    """Pictures with channels first, as Equinox has them, around layers with channels last."""
    net = jn.compose(
        lambda m, x: m(
            jn.group_norm(2), m(jn.conv(4, 3, padding=1), jnp.moveaxis(x, 1, -1))
        ).transpose(0, 3, 1, 2),
        name="net",
    )
    x = array(2, 3, 5, 5)
    params, state = net.init(KEY, x)

    def theirs(params):
        conv = eqx.nn.Conv2d(3, 4, 3, padding=1, key=KEY)
        kernel = params["conv"]["kernel"].transpose(3, 2, 0, 1)
        conv = eqx.tree_at(
            lambda c: (c.weight, c.bias), conv, (kernel, params["conv"]["bias"][:, None, None])
        )
        norm = eqx.nn.GroupNorm(2, 4, eps=1e-5)
        scales = params["group_norm"]
        norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (scales["scale"], scales["bias"]))
        return jax.vmap(lambda x: norm(conv(x)))(x)

    agree(lambda params: net.apply(params, state, x)[0], theirs, params, bound=1e-4)


class Model(eqx.Module):
    """A module of Equinox whose body is one of our nets."""

    params: dict
    head: eqx.nn.Linear
    body: jn.Layer

    def __call__(self, x):
        return self.head(self.body.apply(self.params, {}, x[None])[0][0])


@pytest.mark.slow
def test_a_module_holds_a_net_and_trains_by_filters():
    model = Model(PARAMS, eqx.nn.Linear(3, 2, key=KEY), NET)
    y = array(4, 2, seed=1)
    optimizer = optax.sgd(0.1)

    @eqx.filter_jit
    def trained(model, steps):
        state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        for _ in range(steps):

            @eqx.filter_grad
            def slopes(model):
                return jnp.mean((jax.vmap(model)(X) - y) ** 2)

            updates, state = optimizer.update(slopes(model), state)
            model = eqx.apply_updates(model, updates)
        return model

    after = trained(model, 2)
    assert after.body is NET

    def loss(both):
        params, head = both
        return jnp.mean((jax.vmap(lambda x: head(as_mlp(params, (3, 5, 3))(x)))(X) - y) ** 2)

    both = model.params, model.head
    for _ in range(2):
        both = jax.tree.map(lambda p, g: p - 0.1 * g, both, jax.grad(loss)(both))
    close((after.params, after.head.weight), (both[0], both[1].weight), 1e-5)
