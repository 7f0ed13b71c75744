"""Attributions to the output of a layer, and to inputs of several arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.inspect import class_activation_map, integrated_gradients, occlusion, saliency
from tests.helpers import close

RNG = np.random.default_rng(0)
IDS, LENGTHS = RNG.integers(0, 11, (4, 7)), np.array([7, 3, 5, 1])
PADDING = np.arange(7) >= LENGTHS[:, None]


def mean_of(x, lengths):
    there = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
    return jnp.where(there, x, 0).sum(1) / lengths[:, None]


def texts():
    """A net of ids and lengths: a mean over the tokens, and what is before and after it."""

    def forward(m, ids, lengths):
        x = m(jn.embedding(11, 6), ids)
        x = jnp.tanh(m(jn.dense(5, name="first"), x))
        return m(jn.dense(3, name="last"), jnp.sin(mean_of(x, lengths)))

    return jn.compose(forward, name="net")


def after_embedding(params, vectors, lengths):
    """The rest of `texts`, as a function of the embedding's output."""
    first, last = params["first"], params["last"]
    x = jnp.tanh(vectors @ first["kernel"] + first["bias"])
    return jnp.sin(mean_of(x, lengths)) @ last["kernel"] + last["bias"]


@pytest.fixture
def trained(x64):
    net = texts()
    params, state = net.init(jax.random.key(0), (IDS, LENGTHS))
    params = jax.tree.map(lambda a: a.astype(float), params)  # ids give float32
    table = jnp.asarray(RNG.normal(size=(11, 6)))
    return net, params | {"embedding": {"embedding": table}}, state


# Values


@pytest.mark.parametrize("given", [(IDS, LENGTHS), {"lengths": LENGTHS, "ids": IDS}])
def test_gradients_at_a_layer_are_those_of_the_rest_of_the_net(trained, given):
    net, params, state = trained
    vectors = params["embedding"]["embedding"][IDS]

    def rest(vectors):
        return after_embedding(params, vectors, LENGTHS)[:, 2].sum()

    found = saliency(net, params, state, given, 2, at="embedding")
    close(found, jax.grad(rest)(vectors), 1e-7, 1e-12)
    assert not found[PADDING].any() and found[~PADDING].all()


@pytest.mark.parametrize("baseline", [0.0, 0.5, np.zeros((4, 7), int), np.full((1, 7), 3)])
def test_contributions_sum_to_the_change_of_the_score(trained, baseline):
    net, params, state = trained
    table = params["embedding"]["embedding"]
    is_number = isinstance(baseline, float)
    options = {"baseline": baseline if is_number else (baseline, LENGTHS), "at": "embedding"}
    found = integrated_gradients(net, params, state, (IDS, LENGTHS), 1, **options)
    start = jnp.full((4, 7, 6), baseline) if is_number else table[baseline]
    change = after_embedding(params, table[IDS], LENGTHS) - after_embedding(params, start, LENGTHS)
    close(found.sum((1, 2)), change[:, 1], 1e-7, 1e-9)
    assert not found[PADDING].any()


def test_a_covered_token_is_a_vector_of_zeros(trained):
    net, params, state = trained
    vectors = params["embedding"]["embedding"][IDS]
    found = occlusion(net, params, state, (IDS, LENGTHS), 0, size=1, at="embedding")
    for i in range(7):
        covered = after_embedding(params, vectors.at[:, i].set(0), LENGTHS)
        drop = after_embedding(params, vectors, LENGTHS) - covered
        close(found[:, i], drop[:, 0], 1e-7, 1e-12)
    assert not found[PADDING].any()


def test_the_score_and_the_place_may_both_be_inside(trained):
    net, params, state = trained
    vectors = params["embedding"]["embedding"][IDS]
    kernel = params["first"]["kernel"]
    found = saliency(net, params, state, (IDS, LENGTHS), (2, 4), path="first", at="embedding")
    wanted = np.zeros(vectors.shape)
    wanted[:, 2] = kernel[:, 4]
    close(found, wanted, 1e-7, 1e-12)
    same = saliency(net, params, state, (IDS, LENGTHS), (2, 4), path="first", at="first")
    assert same.sum() == 4 and (same[:, 2, 4] == 1).all()


def test_floats_of_an_input_with_several_arrays():
    """The same score of x, in a tuple, a dict and among named inputs."""

    def pooled(given):
        x, lengths = given.values() if isinstance(given, dict) else given
        return jnp.square(mean_of(x, lengths))

    def named(m, lengths, x):
        return pooled((x, lengths))

    x = RNG.normal(size=(4, 7, 2)).astype(np.float32)
    expected = 2 * np.asarray(mean_of(x, LENGTHS))[:, 1, None] / LENGTHS[:, None]
    inputs = [
        (pooled, (x, LENGTHS)),
        (pooled, {"a": x, "b": LENGTHS}),
        (jn.compose(named), {"x": x, "lengths": LENGTHS}),
    ]
    for net, given in inputs:
        found = saliency(net, {}, {}, given, 1)
        close(found[..., 1], np.where(PADDING, 0, expected), 1e-5, 1e-6)
        parts = integrated_gradients(net, {}, {}, given, 1, steps=1)
        close(parts.sum((1, 2)), pooled((x, LENGTHS))[:, 1], 1e-5, 1e-6)
        drops = occlusion(net, {}, {}, given, 1, size=1)
        assert drops.shape == (4, 7) and not drops[PADDING].any() and drops[~PADDING].all()


def test_padding_may_be_nan():
    x = np.where(PADDING[..., None], np.nan, RNG.normal(size=(4, 7, 2))).astype(np.float32)
    net = jn.serial(jn.gru(3), lambda pair: pair[0].sum(1))
    params, state = net.init(jax.random.key(0), (x, LENGTHS))
    given = net, params, state, (x, LENGTHS), 1
    for found in (saliency(*given), integrated_gradients(*given), occlusion(*given, size=1)):
        assert jnp.isfinite(found).all() and not found[PADDING].any()


@pytest.mark.parametrize("shape, size, strides", [
    ((2, 5), 1, None),
    ((2, 5), 2, 1),
    ((2, 7, 3), 3, 2),
    ((2, 7, 3), (3, 1), (2, 1)),
    ((2, 4, 5, 3, 2), 2, 1),
    ((2, 4, 5, 3, 2), (2, 5), None),
    ((2, 4, 5, 3, 2), (2, 3, 3, 1), (1, 2, 3, 1)),
])  # fmt: skip
def test_windows_over_any_number_of_axes(shape, size, strides):
    """Drops computed patch by patch."""
    x = RNG.normal(size=shape).astype(np.float32)
    weight = RNG.normal(size=shape[1:]).astype(np.float32)

    def net(x):
        score = jnp.sin((x * weight).reshape(len(x), -1)).sum(1)
        return jnp.stack([score, -score], 1)

    gray = RNG.normal(size=shape[-1:]).astype(np.float32)
    found = occlusion(net, {}, {}, x, 0, size=size, strides=strides, value=gray)
    sizes = size if isinstance(size, tuple) else (size,) * max(1, len(shape) - 2)
    steps = sizes if strides is None else strides
    steps = steps if isinstance(steps, tuple) else (steps,) * len(sizes)
    axes = shape[1 : 1 + len(sizes)]
    sums, counts = np.zeros((2, *axes)), np.zeros(axes)
    numbers = [-(-(n - s) // step) + 1 for n, s, step in zip(axes, sizes, steps, strict=True)]
    for place in np.ndindex(*numbers):
        patch = tuple(slice(i * t, i * t + s) for i, s, t in zip(place, sizes, steps, strict=True))
        mask = np.zeros((*axes, *(1,) * (len(shape) - 1 - len(axes))), bool)
        mask[patch] = True
        drop = net(x)[:, 0] - net(jnp.where(mask, gray, x))[:, 0]
        sums[:, *patch] += np.asarray(drop).reshape(-1, *(1,) * len(axes))
        counts[patch] += 1
    close(found, sums / counts, 1e-4, 1e-5)


# Kinds of nets


@pytest.mark.parametrize("function, options", [
    (saliency, {}),
    (integrated_gradients, {"steps": 4}),
    (integrated_gradients, {"steps": 4, "baseline": (np.zeros_like(IDS), LENGTHS)}),
    (occlusion, {"size": 1}),
])  # fmt: skip
def test_inside_jit(function, options):
    net, given = texts(), (IDS, LENGTHS)
    params, state = net.init(jax.random.key(0), given)

    @jax.jit
    def compiled(params, given):
        return function(net, params, state, given, at="embedding", **options)

    outside = function(net, params, state, given, at="embedding", **options)
    close(compiled(params, given), outside, 1e-5, 1e-6)


def test_a_net_of_16_bits():
    net, given = texts(), (IDS, LENGTHS)
    params, state = net.init(jax.random.key(0), given)
    exact = integrated_gradients(net, params, state, given, 1, at="embedding")
    half = jn.cast(net, jnp.bfloat16)
    found = integrated_gradients(half, params, state, given, 1, at="embedding")
    assert found.dtype == jnp.float32
    close(found, exact, 0.02, 0.02 * float(abs(exact).max()))
    stored = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    for found in (
        saliency(net, stored, state, given, 1, at="embedding"),
        occlusion(net, stored, state, given, 1, at="embedding", size=1),
    ):
        assert found.dtype == jnp.float32 and not found[PADDING].any()


def test_a_net_with_state():
    net = jn.serial(jn.embedding(11, 6), jn.batch_norm(), lambda x: x.sum(1))
    params, state = net.init(jax.random.key(0), IDS)
    state = jax.tree.map(lambda a: a + 3, state)  # a variance of 1 + 3
    found = saliency(net, params, state, IDS, 2, at="embedding")
    close(found, np.broadcast_to(np.arange(6) == 2, (4, 7, 6)) / 2, 1e-4, 1e-6)


def test_a_shared_layer_has_an_output_for_each_call():
    shared = jn.dense(3)
    net = jn.serial(shared, shared)
    x = jnp.ones((2, 3))
    params, state = net.init(jax.random.key(0), x)
    kernel = params["dense"]["kernel"]
    close(saliency(net, params, state, x, 1, at="dense")[0], kernel[:, 1], 1e-6, 1e-6)
    assert saliency(net, params, state, x, 1, at="dense#2")[0].tolist() == [0, 1, 0]


def test_class_map_of_a_sequence_with_lengths():
    """CAM of a linear head: the sum over the positions is the logit without its bias."""
    head = jn.dense(3)

    def forward(m, ids, lengths):
        x = m(jn.conv(5, (3,), name="conv"), m(jn.embedding(11, 6), ids))
        return m(head, mean_of(x, lengths))

    net = jn.compose(forward)
    params, state = net.init(jax.random.key(0), (IDS, LENGTHS))
    found = class_activation_map(net, params, state, (IDS[:1], LENGTHS[:1]), "conv", 2)
    logits, _ = net.apply(params, state, (IDS[:1], LENGTHS[:1]))
    close(found.sum(1), logits[:, 2], 1e-5, 1e-5)


# Errors


def with_loop():
    block = jn.repeat(jn.serial(jn.dense(6), jnp.tanh, name="block"), 3)
    return jn.serial(jn.embedding(11, 6), block, lambda x: x.sum(1), name="net")


@pytest.mark.parametrize("function, change, error, words", [
    (saliency, {}, TypeError,
     "saliency: the input, ((4, 7) int32, (4,) int32), holds no array of floats, but the score is "
     'attributed to one array. Write at="embedding" to attribute it to the output of that layer; '
     "layers inside: embedding, first, last"),
    (saliency, {"net": lambda pair: pair[0] @ pair[1], "x": (np.ones((2, 2)), np.ones((2, 3)))},
     TypeError,
     "saliency: the input, ((2, 2) float32, (2, 3) float32), holds 2 arrays of floats, but the "
     "score is attributed to one array. Write at=, the path of a layer, to attribute it to the "
     "output of that layer; layers inside: none, it is a single layer"),
    (saliency, {"at": "third"}, ValueError,
     "saliency: net has no layer 'third'; layers inside: embedding, first, last"),
    (saliency, {"at": "last", "path": "embedding"}, ValueError,
     "saliency: net/embedding ends before net/last, so its score does not depend on it; at= must "
     "be a layer that runs before the layer of path="),
    (saliency, {"at": 3}, TypeError,
     "saliency: at must be the name of a layer inside, got int"),
    (saliency, {"net": with_loop(), "x": IDS, "at": "block/dense"}, ValueError,
     "saliency: net/block/dense runs inside jn.repeat, jax.lax.scan or the like, so it has no "
     "single output; layers outside: embedding, block, lambda"),
    (saliency, {"net": jn.serial(lambda x: x > 2, lambda x: 1.0 * x), "x": IDS, "at": "lambda"},
     ValueError,
     "saliency: the output of serial/lambda, (4, 7) bool, holds no array of floats; at= must be a "
     "layer with one: lambda_1"),
    (integrated_gradients, {"at": "embedding", "baseline": np.zeros((4, 7), int)}, TypeError,
     "integrated_gradients: with at=, baseline must be a number, or an input in the form of x, "
     "((4, 7) int32, (4,) int32), got (4, 7) int64"),
    (integrated_gradients, {"at": "embedding", "baseline": (IDS[:3], LENGTHS[:3])}, ValueError,
     "integrated_gradients: the output of embedding for the baseline must broadcast to the output "
     "for x, (4, 7, 6), got (3, 7, 6)"),
    (occlusion, {"at": "embedding", "size": (1, 2, 3)}, ValueError,
     "occlusion: size must be a number, or one for each of 1 to 2 axes after the batch axis, got "
     "(1, 2, 3)"),
    (occlusion, {"net": jnp.sin, "x": np.ones(3), "size": 1, "target": ()}, ValueError,
     "occlusion: expected a table (batch, features) or (batch, *space, channels), got (3,)"),
    (occlusion, {"net": jn.serial(lambda x: x.reshape(2, -1), lambda x: x.reshape(4, 3)),
                 "x": np.ones((4, 3)), "size": 1, "at": "lambda"}, ValueError,
     "occlusion: the patch covers one example at a time, but (2, 6) has another first axis than "
     "the output with the score, (4, 3)"),
])  # fmt: skip
def test_words_of_errors(function, change, error, words):
    given = {"net": texts(), "x": (IDS, LENGTHS), "target": 1} | change
    params, state = {}, {}
    if isinstance(given["net"], jn.Layer):
        params, state = given["net"].init(jax.random.key(0), given["x"])
    with pytest.raises(error) as caught:
        function(params=params, state=state, **given)
    assert str(caught.value).startswith(words)


# Other libraries


def in_torch(torch, params):
    """The net `texts` in PyTorch."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 6)
            self.first, self.last = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)

        def forward(self, ids, lengths):
            x = self.first(self.embedding(ids)).tanh()
            there = torch.arange(ids.shape[1]) < lengths[:, None]
            mean = (x * there[..., None]).sum(1) / lengths[:, None]
            return self.last(mean.sin())

    net = Net()
    net.embedding.weight.data = torch.tensor(np.array(params["embedding"]["embedding"]))
    for name in ("first", "last"):
        module = getattr(net, name)
        module.weight.data = torch.tensor(np.array(params[name]["kernel"]).T.copy())
        module.bias.data = torch.tensor(np.array(params[name]["bias"]))
    return net


@pytest.mark.filterwarnings("ignore")  # of captum
@pytest.mark.parametrize("method", ["saliency", "number", "input", "occlusion"])
def test_attributions_at_a_layer_are_those_of_captum(trained, torch, method):
    attr = pytest.importorskip("captum.attr", reason="compares with captum")  # captum 0.9.0
    net, params, state = trained
    model, options = in_torch(torch, params), {"at": "embedding"}
    ids, padding = torch.tensor(IDS), torch.full((4, 7), 3)
    theirs = {"target": 1, "additional_forward_args": torch.tensor(LENGTHS)}
    given = net, params, state, (IDS, LENGTHS), 1
    if method == "saliency":
        gradient = attr.LayerGradientXActivation(model, model.embedding, multiply_by_inputs=False)
        wanted, found = gradient.attribute(ids, **theirs), saliency(*given, **options)
    elif method == "occlusion":
        ablation = attr.LayerFeatureAblation(model, model.embedding)
        groups = torch.arange(7)[None, :, None].expand(1, 7, 6)
        wanted = ablation.attribute(ids, layer_baselines=0, layer_mask=groups, **theirs)[..., 0]
        found = occlusion(*given, size=1, **options)
    else:
        if method == "number":  # of captum, the baseline is an input: a token with zeros
            row = params["embedding"]["embedding"].at[3].set(0)
            params = params | {"embedding": {"embedding": row}}
            model, given = in_torch(torch, params), (net, params, *given[2:])
            baseline = 0.0
        else:
            baseline = padding.numpy(), LENGTHS
        layered = attr.LayerIntegratedGradients(model, model.embedding)
        wanted = layered.attribute(ids, padding, n_steps=32, **theirs)
        found = integrated_gradients(*given, baseline=baseline, **options)
    np.testing.assert_allclose(found, wanted.detach(), atol=1e-10)


@pytest.mark.filterwarnings("ignore")  # of captum
@pytest.mark.parametrize("shape, size, strides", [
    ((2, 5), (2,), (1,)), ((2, 7, 3), (3, 3), (2, 3)), ((2, 4, 5, 3, 2), (2, 3, 1, 2), (2, 2, 1, 1))
])  # fmt: skip
def test_occlusion_of_tables_series_and_volumes_is_that_of_captum(x64, torch, shape, size, strides):
    attr = pytest.importorskip("captum.attr", reason="compares with captum")  # captum 0.9.0
    x, weight = RNG.normal(size=shape), RNG.normal(size=(int(np.prod(shape[1:])), 3))

    def net(x):
        return jnp.sin(x.reshape(len(x), -1)) @ weight

    def model(x):
        return x.flatten(1).sin() @ torch.tensor(weight)

    windows = {"sliding_window_shapes": size, "strides": strides}
    wanted = attr.Occlusion(model).attribute(torch.tensor(x), baselines=0.2, target=2, **windows)
    found = occlusion(net, {}, {}, x, 2, size=size, strides=strides, value=0.2)
    np.testing.assert_allclose(found, wanted, atol=1e-10)


# A known answer

MOTIF, LENGTH = "TATAAT", 40


def dna(rows, rng):
    """Letters as ids; half of the rows contain the motif, at the returned positions."""
    ids = rng.integers(0, 4, (rows, LENGTH))
    starts = rng.integers(0, LENGTH - len(MOTIF) + 1, rows)
    labels = np.arange(rows) % 2
    motif = np.array(["ACGT".index(letter) for letter in MOTIF])
    for row, start in enumerate(starts):
        if labels[row]:
            ids[row, start : start + len(MOTIF)] = motif
    return ids, starts, labels


@pytest.mark.slow
def test_attributions_find_a_motif_in_dna():
    """Of made-up DNA: where the motif is, is known."""
    rng = np.random.default_rng(1)
    ids, _, labels = dna(2000, rng)
    net = jn.serial(
        jn.embedding(4, 4), jn.conv(16, (6,)), jax.nn.relu, lambda x: x.max(1), jn.dense(2)
    )
    trainer = jn.trainer(
        jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels), optax.adam(1e-2)
    )
    train_state = trainer.init(jax.random.key(0), (ids, labels))
    for epoch in jn.fit(trainer, train_state, (ids, labels), epochs=15, batch_size=100):
        train_state = epoch.train_state
    params, state = train_state.params, train_state.state
    held_out, starts, labels = dna(400, rng)
    accuracy = (jn.predict(net, params, state, held_out).argmax(-1) == labels).mean()
    assert 0.97 < accuracy <= 1
    held_out, starts = held_out[labels == 1], starts[labels == 1]
    given = net, params, state, held_out, 1
    inside = np.arange(LENGTH) - starts[:, None]
    inside = (inside >= 0) & (inside < len(MOTIF))
    for found in (
        abs(saliency(*given, at="embedding")).sum(-1),
        integrated_gradients(*given, at="embedding").sum(-1),
        occlusion(*given, at="embedding", size=1),
    ):
        first = np.argsort(-np.asarray(found), 1)[:, : len(MOTIF)]  # the six with most
        hits = np.take_along_axis(inside, first, 1).mean()
        assert 0.9 < hits <= 1  # by chance 6 / 40 = 0.15
