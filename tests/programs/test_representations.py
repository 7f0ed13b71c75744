"""Two views, two nets, two heads: moving targets, contrasts, teachers, adversaries, tied words."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(16)
VIEWS = jnp.asarray(draw(2, 5, 4), jnp.float32)
X = VIEWS[0]
ENCODER = jn.serial(jn.dense(6), jnp.tanh, jn.dense(3), name="encoder")
PREDICTOR = jn.serial(jn.dense(6), jnp.tanh, jn.dense(3), name="predictor")
CODES, _ = ENCODER.init(KEY, X)


def encode(params, x):
    return ENCODER.apply(params, {}, x)[0]


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.slow
def test_a_target_net_follows_as_an_average():
    """BYOL: two steps of the online net, whose target is an average without a gradient."""
    params = {
        "encoder": CODES,
        "predictor": PREDICTOR.init(jax.random.key(1), jnp.zeros((5, 3)))[0],
    }

    def run(encode, predict):
        def loss(params, target):
            online = [
                unit(predict(params["predictor"], encode(params["encoder"], x))) for x in VIEWS
            ]
            wanted = [unit(encode(target, x)) for x in VIEWS]
            return jnp.mean((online[0] - wanted[1]) ** 2 + (online[1] - wanted[0]) ** 2)

        def step(carry, _):
            params, target = carry
            slopes = jax.grad(loss)(params, target)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
            return (params, optax.incremental_update(params["encoder"], target, 0.1)), None

        return jax.lax.scan(step, (params, params["encoder"]), length=2)[0]

    def predict(params, x):
        return PREDICTOR.apply(params, {}, x)[0]

    found, wanted = jax.jit(lambda: (run(encode, predict), run(mlp, mlp)))()
    close(found, wanted, 1e-5)


@pytest.mark.slow
def test_pairs_are_told_from_all_others():
    def loss(encode):
        codes = unit(encode(VIEWS.reshape(10, 4)))
        alike = codes @ codes.T / 0.5 - 1e9 * jnp.eye(10)
        return optax.softmax_cross_entropy_with_integer_labels(alike, (jnp.arange(10) + 5) % 10)

    agree(
        lambda params: loss(lambda x: encode(params, x)),
        lambda params: loss(lambda x: mlp(params, x)),
        CODES,
    )


@pytest.mark.slow
def test_views_are_made_and_encoded_inside_the_model():
    """One encoder for both, each view with its own noise, mapped over keys."""

    def two_views(m, x):
        def view(key):
            return m(ENCODER, x + 0.1 * jax.random.normal(key, x.shape))

        return jax.vmap(view)(m.keys("views", 2))

    net = jn.compose(two_views)
    params, _ = net.init(KEY, X)

    def by_hand(params):
        keys = jax.random.split(jn.child_key(KEY, "key/views"), 2)
        noise = jnp.stack([jax.random.normal(key, X.shape) for key in keys])
        return mlp(params["encoder"], X + 0.1 * noise)

    views = agree(lambda params: net.apply(params, {}, X, key=KEY, train=True)[0], by_hand, params)
    assert np.abs(views[0] - views[1]).max() > 1e-3


@pytest.mark.slow
def test_a_siamese_net_ranks_three():
    def siamese(m, anchor, positive, negative):
        a, p, n = (m(ENCODER, x) for x in (anchor, positive, negative))
        return jax.nn.relu(((a - p) ** 2).sum(-1) - ((a - n) ** 2).sum(-1) + 1)

    net = jn.compose(siamese)
    given = VIEWS[0], VIEWS[1], VIEWS[0, ::-1]
    params, state = net.init(KEY, given)
    assert list(params) == ["encoder"]

    def by_hand(params):
        a, p, n = mlp(params["encoder"], jnp.stack(given))
        return jax.nn.relu(((a - p) ** 2 - (a - n) ** 2).sum(-1) + 1)

    agree(lambda params: net.apply(params, state, given)[0], by_hand, params)


@pytest.mark.slow
def test_pictures_and_words_share_a_space_with_a_learned_temperature():
    def clip(m, image, text):
        image = unit(m(jn.dense(3, name="image"), image))
        words = m(jn.embedding(7, 5, name="words"), text).mean(1)
        text = unit(m(jn.dense(3, name="text"), words))
        return jnp.exp(m.param("log_scale", jn.initializers.constant(1.0), ())) * image @ text.T

    net = jn.compose(clip)
    given = {"image": X, "text": jnp.asarray(np.arange(20).reshape(5, 4) % 7)}
    params, state = net.init(KEY, given)

    def by_hand(params):
        words = jnp.take(params["words"]["embedding"], given["text"], axis=0).mean(1)
        image, text = unit(dense(params["image"], X)), unit(dense(params["text"], words))
        return jnp.exp(params["log_scale"]) * jnp.einsum("if,tf->it", image, text)

    agree(lambda params: net.apply(params, state, given)[0], by_hand, params)


def test_a_student_learns_from_a_teacher():
    teacher, _ = PREDICTOR.init(jax.random.key(2), X)

    def loss(student, teach):
        soft = jax.nn.softmax(teach(X) / 2)
        return 4 * optax.softmax_cross_entropy(student(X) / 2, soft)

    agree(
        lambda params: loss(
            lambda x: encode(params, x), lambda x: PREDICTOR.apply(teacher, {}, x)[0]
        ),
        lambda params: loss(lambda x: mlp(params, x), lambda x: mlp(teacher, x)),
        CODES,
    )


def test_a_domain_adversary_turns_the_gradient_around():
    @jax.custom_vjp
    def reversed_gradient(x):
        return x

    reversed_gradient.defvjp(lambda x: (x, None), lambda _, g: (-0.5 * g,))

    def adversarial(m, x):
        code = m(ENCODER, x)
        domain = m(jn.serial(reversed_gradient, jn.dense(2), name="domain"), code)
        return m(jn.dense(3, name="label"), code), domain

    net = jn.compose(adversarial)
    params, state = net.init(KEY, X)

    def by_hand(params):
        code = mlp(params["encoder"], X)
        back = 1.5 * jax.lax.stop_gradient(code) - 0.5 * code
        return dense(params["label"], code), dense(params["domain"]["dense"], back)

    agree(lambda params: net.apply(params, state, X)[0], by_hand, params)


def two_exits(m, x):
    hidden = jnp.tanh(m(jn.dense(6, name="body"), x))
    early = m(jn.dense(3, name="early"), hidden) if m.train else None
    return m(jn.dense(3, name="last"), jnp.tanh(m(jn.dense(6, name="top"), hidden))), early


def test_a_head_of_training_alone():
    net = jn.compose(two_exits)
    params, state = net.init(KEY, X)

    def by_hand(params, train):
        hidden = jnp.tanh(dense(params["body"], X))
        last = dense(params["last"], jnp.tanh(dense(params["top"], hidden)))
        return last, dense(params["early"], hidden) if train else None

    for train in (False, True):
        agree(
            lambda params, train=train: net.apply(params, state, X, train=train)[0],
            lambda params, train=train: by_hand(params, train),
            params,
        )


def test_two_heads_of_one_shape_need_names():
    """What the message says to write runs then, and each head has its own weights."""

    def heads(m, x, name=0):
        body = m(jn.dense(6, name="body"), x)
        named = {"name": "aux"} if name else {}
        early = m(jn.dense(3, **named), body) if m.train else None
        return m(jn.dense(3), body), early

    with pytest.raises(ValueError, match=r"name of its own, as in jn.dense\(3, name='head'\)"):
        jn.compose(heads).init(KEY, X)
    net = jn.compose(lambda m, x: heads(m, x, name=1), name="net")
    params, state = net.init(KEY, X)
    last, early = net.apply(params, state, X, train=True)[0]
    close(last, net.apply(params, state, X)[0][0], 1e-6)
    assert np.abs(last - early).max() > 1e-3


def test_layers_are_supervised_on_their_way():
    def supervised_deeply(m, x):
        outs = []
        for i in range(3):
            x = jnp.tanh(m(jn.dense(4, name=f"layer_{i}"), x))
            outs.append(m(jn.dense(2, name=f"exit_{i}"), x))
        return jnp.stack(outs)

    net = jn.compose(supervised_deeply)
    params, state = net.init(KEY, X)

    def by_hand(params):
        x, outs = X, []
        for i in range(3):
            x = jnp.tanh(dense(params[f"layer_{i}"], x))
            outs.append(dense(params[f"exit_{i}"], x))
        return jnp.stack(outs)

    agree(lambda params: net.apply(params, state, X)[0], by_hand, params)


def test_words_come_out_by_the_table_they_came_in_by():
    words = jn.embedding(7, 4, tied=True, name="words")

    def language_model(m, tokens):
        return m(words, jnp.tanh(m(jn.dense(4), m(words, tokens))))

    tokens = jnp.array([[0, 3, 5], [6, 1, 2]])
    net = jn.compose(language_model)
    params, state = net.init(KEY, tokens)
    assert set(params) == {"words", "dense"}

    def by_hand(params):
        (table,) = jax.tree.leaves(params["words"])
        return jnp.tanh(dense(params["dense"], table[tokens])) @ table.T

    agree(lambda params: net.apply(params, state, tokens)[0], by_hand, params)


def test_masked_patches_are_reconstructed():
    """The mask is drawn with the net's key; the token in its place is a parameter."""

    def masked(m, x):
        token = m.param("token", jn.initializers.normal(1.0), (4,))
        keep = jax.random.bernoulli(m.key("mask"), 0.5, (len(x), 1)) if m.train else True
        return m(PREDICTOR, jnp.where(keep, x, token))

    net = jn.compose(masked)
    params, state = net.init(KEY, X)

    def by_hand(params):
        keep = jax.random.bernoulli(jn.child_key(KEY, "key/mask"), 0.5, (5, 1))
        return mlp(params["predictor"], keep * X + (1 - keep) * params["token"])

    agree(lambda params: net.apply(params, state, X, key=KEY, train=True)[0], by_hand, params)
