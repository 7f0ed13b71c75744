"""Physics by derivatives of nets: equations as losses, energies, fields, operators, control."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.helpers import draw
from tests.programs.common import agree, dense, mlp

KEY = jax.random.key(13)
NET = jn.serial(jn.dense(6), jnp.tanh, jn.dense(1), jnp.ravel)
POINTS = jnp.asarray(draw(5, 2), jnp.float32)
PARAMS, _ = NET.init(KEY, POINTS)


def ours(params):
    """A scalar function of one point."""
    return lambda x: NET.apply(params, {}, x[None])[0][0]


def by_hand(params):
    return lambda x: mlp(params, x)[0]


def heat(u):
    """The residual of u_t = u_xx."""

    def of(point):
        t, x = point

        def at_t(x):
            return u(jnp.stack([t, x]))

        u_t = jax.grad(lambda t: u(jnp.stack([t, x])))(t)
        return u_t - jax.grad(jax.grad(at_t))(x)

    return jnp.mean(jax.vmap(of)(POINTS) ** 2)


def burgers(u):
    """The residual of u_t + u u_x = 0.1 u_xx, by products forwards."""
    along_t, along_x = jnp.eye(2)

    def of(point):
        value, u_t = jax.jvp(u, (point,), (along_t,))

        def slope(point):
            return jax.jvp(u, (point,), (along_x,))[1]

        u_x, u_xx = jax.jvp(slope, (point,), (along_x,))
        return u_t + value * u_x - 0.1 * u_xx

    return jnp.mean(jax.vmap(of)(POINTS) ** 2)


def ritz(u):
    """The energy whose lowest point solves Poisson's equation."""
    slopes = jax.vmap(jax.grad(u))(POINTS)
    return jnp.mean(0.5 * (slopes**2).sum(-1) - jax.vmap(u)(POINTS))


def laplacian(u):
    return jax.vmap(lambda x: jnp.trace(jax.hessian(u)(x)))(POINTS)


def eikonal(u):
    """A signed distance has slopes of length 1."""
    slopes = jax.vmap(jax.grad(u))(POINTS)
    return jnp.mean((jnp.linalg.norm(slopes, axis=-1) - 1) ** 2)


def hamiltonian(energy):
    """Leapfrog steps of position and momentum, where the net is the energy."""

    def step(state, _):
        q, p = state
        q = q + 0.05 * jax.grad(lambda p: energy(jnp.stack([q, p])))(p)
        p = p - 0.1 * jax.grad(lambda q: energy(jnp.stack([q, p])))(q)
        q = q + 0.05 * jax.grad(lambda p: energy(jnp.stack([q, p])))(p)
        return (q, p), q

    return jax.vmap(lambda x: jax.lax.scan(step, (x[0], x[1]), length=3)[1])(POINTS)


def lagrangian(energy):
    """Accelerations by the equation of Euler and Lagrange."""

    def of(q, v):
        def at(q, v):
            return energy(jnp.stack([q, v])) + 2 * v**2

        mass = jax.grad(jax.grad(at, 1), 1)(q, v)
        return (jax.grad(at, 0)(q, v) - jax.grad(jax.grad(at, 1), 0)(q, v) * v) / mass

    return jax.vmap(of)(*POINTS.T)


@pytest.mark.parametrize(
    "program", [heat, burgers, ritz, laplacian, eikonal, hamiltonian, lagrangian]
)
@pytest.mark.fast_cases("heat")
def test_a_net_as_a_function_of_one_point(program):
    agree(lambda p: program(ours(p)), lambda p: program(by_hand(p)), PARAMS, bound=1e-4)


@pytest.mark.slow
def test_a_field_without_divergence_is_the_curl_of_a_net():
    net = jn.compose(
        lambda m, x: (
            jax.vmap(lambda x: jax.grad(lambda x: m(NET, x[None])[0])(x))(x)
            @ jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        ),
        name="curl",
    )
    params, state = net.init(KEY, POINTS)

    def field(params, x):
        return net.apply(params, state, x)[0]

    def divergence(params):
        each = jax.vmap(jax.jacfwd(lambda x: field(params, x[None])[0]))(POINTS)
        return jnp.trace(each, axis1=1, axis2=2)

    assert jnp.abs(divergence(params)).max() < 1e-5

    def curl(params):
        slopes = jax.vmap(jax.grad(by_hand(params["serial"])))(POINTS)
        return jnp.stack([-slopes[:, 1], slopes[:, 0]], -1)

    agree(lambda params: field(params, POINTS), curl, params)


def test_a_potential_trains_on_its_forces():
    """Energy and force in one model, and a loss of both: a derivative of a derivative."""

    def forward(m, x):
        energy, pull = jax.vjp(lambda x: m(NET, x), x)
        return energy, -pull(jnp.ones_like(energy))[0]

    net = jn.compose(forward)
    params, state = net.init(KEY, POINTS)

    def wanted(params):
        return jax.vmap(by_hand(params["serial"]))(POINTS), -jax.vmap(
            jax.grad(by_hand(params["serial"]))
        )(POINTS)

    agree(lambda params: net.apply(params, state, POINTS)[0], wanted, params)


def test_an_operator_of_a_function_and_a_place():
    """A branch reads samples of a function, a trunk reads where the answer is asked for."""

    def operator(m, samples, places):
        branch = m(jn.serial(jn.dense(6), jnp.tanh, jn.dense(4), name="branch"), samples)
        trunk = m(jn.serial(jn.dense(6), jnp.tanh, jn.dense(4), name="trunk"), places)
        return branch @ trunk.T

    samples, places = (jnp.asarray(draw(*shape), jnp.float32) for shape in ((3, 7), (5, 1)))
    net = jn.compose(operator)
    params, state = net.init(KEY, (samples, places))

    def slopes(answer):
        return jax.jvp(answer, (places,), (jnp.ones_like(places),))

    agree(
        lambda params: slopes(lambda places: net.apply(params, state, (samples, places))[0]),
        lambda params: slopes(
            lambda places: mlp(params["branch"], samples) @ mlp(params["trunk"], places).T
        ),
        params,
    )


def test_a_fourier_layer_has_complex_weights():
    def spectral(m, x):  # (batch, places, channels)
        shape = (3, 4, 4)
        weights = jax.lax.complex(
            m.param("real", jn.initializers.normal(0.3), shape),
            m.param("imag", jn.initializers.normal(0.3), shape),
        )
        modes = jnp.fft.rfft(x, axis=1)[:, :3]
        mixed = jnp.einsum("bki,kio->bko", modes, weights)
        return m(jn.dense(4), x) + jnp.fft.irfft(mixed, n=x.shape[1], axis=1)

    x = jnp.asarray(draw(2, 8, 4), jnp.float32)
    net = jn.compose(spectral)
    params, state = net.init(KEY, x)

    def wanted(params):
        full = jnp.zeros((5, 4, 4), jnp.complex64)
        full = full.at[:3].set(params["real"] + 1j * params["imag"])
        mixed = jnp.einsum("bki,kio->bko", jnp.fft.rfft(x, axis=1), full)
        return dense(params["dense"], x) + jnp.fft.irfft(mixed, n=8, axis=1)

    agree(lambda params: net.apply(params, state, x)[0], wanted, params)


def test_a_controller_learns_through_a_simulation():
    """A pendulum for 6 steps, whose torque is the net's: the gradient goes through the physics."""

    def cost(torque):
        def step(state, _):
            angle, speed = state
            force = torque(jnp.stack([angle, speed])) - jnp.sin(angle)
            speed = speed + 0.1 * force
            angle = angle + 0.1 * speed
            return (angle, speed), angle**2 + 0.1 * force**2

        return jax.vmap(lambda x: jax.lax.scan(step, (x[0], x[1]), length=6)[1].sum())(POINTS)

    agree(lambda params: cost(ours(params)), lambda params: cost(by_hand(params)), PARAMS)


def around(u):
    """A grid whose ends meet."""
    return jnp.pad(u, ((0, 0), (1, 1), (0, 0)), mode="wrap")


@pytest.mark.slow
def test_a_correction_of_a_coarse_solver():
    """A net corrects each step of a solver of the heat equation on a grid."""
    first, last = (jn.conv(n, 3, padding="VALID") for n in (4, 1))
    correct = jn.serial(around, first, jnp.tanh, around, last, name="correct")
    grid = jnp.asarray(draw(2, 8, 1), jnp.float32)

    def solve(correction, u):
        def step(u, _):
            second = jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1) - 2 * u
            return u + 0.2 * second + 0.1 * correction(u), None

        return jax.lax.scan(step, u, length=3)[0]

    net = jn.compose(lambda m, u: solve(lambda u: m(correct, u), u), name="solver")
    params, state = net.init(KEY, grid)

    def conv(entries, u):
        taps = [jnp.roll(u, 1 - i, 1) @ entries["kernel"][i] for i in range(3)]
        return sum(taps) + entries["bias"]

    def wanted(params):
        first, last = params["correct"]["conv"], params["correct"]["conv_1"]
        return solve(lambda u: conv(last, jnp.tanh(conv(first, u))), grid)

    agree(lambda params: net.apply(params, state, grid)[0], wanted, params)


def test_a_linear_solver_inside_a_model():
    """An implicit Euler step whose matrix the net computes, by conjugate gradients."""

    def solve(diffusion, u):
        def product(v):
            flux = diffusion * jnp.diff(v, append=0)
            return v - 0.5 * jnp.diff(flux, prepend=0)

        return jax.scipy.sparse.linalg.cg(product, u, tol=1e-7)[0]

    u = jnp.asarray(draw(6), jnp.float32)
    net = jn.compose(lambda m, u: solve(jax.nn.softplus(m(jn.dense(6), u[None])[0]), u), name="net")
    params, state = net.init(KEY, u)

    def by_matrix(params):
        diffusion = jax.nn.softplus(dense(params["dense"], u))
        ahead = jnp.eye(6, k=1) - jnp.eye(6)
        back = jnp.eye(6) - jnp.eye(6, k=-1)
        return jnp.linalg.solve(jnp.eye(6) - 0.5 * back @ jnp.diag(diffusion) @ ahead, u)

    agree(lambda params: net.apply(params, state, u)[0], by_matrix, params, bound=1e-4)
