"""The recipe of airbench94, part by part, and its first steps against PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import cifar10_record as record
from jaxnet.data import tfds
from tests.experiments.synthetic import load
from tests.helpers import jit_apply

WIDTHS, BATCH, STEPS, WHITEN_STEPS = (6, 8, 10), 16, 20, 12


PLACES = [(group, half) for group in (1, 2, 3) for half in (1, 2)]
NAMES = {"0.weight": "whiten", "0.bias": "whiten_bias", "7.weight": "head"}
NAMES |= {f"{g + 1}.conv{h}.weight": f"conv_{g}_{h}" for g, h in PLACES}
NAMES |= {f"{g + 1}.norm{h}.bias": f"norm_{g}_{h}" for g, h in PLACES}


def torch_net():
    """The net of legacy/airbench94.py in plain PyTorch, in float64."""
    from torch import nn

    class Group(nn.Module):
        def __init__(self, inputs, features):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, features, 3, padding="same", bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, padding="same", bias=False)
            norm = partial(nn.BatchNorm2d, features, eps=1e-12, momentum=0.4)
            self.norm1, self.norm2 = norm(), norm()
            self.norm1.weight.requires_grad_(False)
            self.norm2.weight.requires_grad_(False)
            self.pool, self.act = nn.MaxPool2d(2), nn.GELU()

        def forward(self, x):
            x = self.act(self.norm1(self.pool(self.conv1(x))))
            return self.act(self.norm2(self.conv2(x)))

    a, b, c = WIDTHS
    net = nn.Sequential(
        nn.Conv2d(3, 24, 2),
        nn.GELU(),
        Group(24, a),
        Group(a, b),
        Group(b, c),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(c, 10, bias=False),
    )
    net[0].weight.requires_grad_(False)
    return net.double()


def as_torch(tree):
    """The array of a layer, with its axes in PyTorch's order."""
    import torch

    leaf = np.array(next(iter(tree.values())) if isinstance(tree, dict) else tree)
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[leaf.ndim]
    return torch.from_numpy(leaf.transpose(axes))


def torch_optimizer(weights):
    """Its SGD, with 64 times the rate for the biases of norms, and the schedule of the rate."""
    import torch

    kilostep_scale = 1024 * (1 + 1 / (1 - 0.85))
    lr = 11.5 / kilostep_scale
    wd = 0.0153 * BATCH / kilostep_scale
    trained = [(name, weight) for name, weight in weights.items() if weight.requires_grad]
    norms = [weight for name, weight in trained if "norm" in name]
    others = [weight for name, weight in trained if "norm" not in name]
    fast = {"params": norms, "lr": 64 * lr, "weight_decay": wd / (64 * lr)}
    usual = {"params": others, "lr": lr, "weight_decay": wd / lr}
    sgd = torch.optim.SGD([fast, usual], momentum=0.85, nesterov=True)

    def factor(step):
        top = int(STEPS * 0.23)
        if step < top:
            return 0.2 + 0.8 * step / top
        return 1 - 0.93 * (step - top) / (STEPS - top)

    return sgd, torch.optim.lr_scheduler.LambdaLR(sgd, factor)


def reference(params, x, y):
    """Net, SGD and look-ahead of legacy/airbench94.py in plain PyTorch: losses, weights."""
    import torch
    from torch import nn

    net = torch_net()
    weights = dict(net.named_parameters())
    for name, mine in NAMES.items():
        assert weights[name].shape == as_torch(params[mine]).shape
        weights[name].data.copy_(as_torch(params[mine]))
    sgd, schedule = torch_optimizer(weights)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum")
    slow = {k: v.clone() for k, v in net.state_dict().items()}

    def look_ahead(decay):
        for old, new in zip(slow.values(), net.state_dict().values(), strict=True):
            if new.is_floating_point():
                old.lerp_(new, 1 - decay)
                new.copy_(old)

    losses = []
    for step in range(STEPS):
        net[0].bias.requires_grad_(step < WHITEN_STEPS)
        logits = net(torch.from_numpy(x[step].transpose(0, 3, 1, 2))) / 9
        loss = loss_fn(logits, torch.tensor(y[step]))
        losses.append(loss.item() / BATCH)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        schedule.step()
        if (step + 1) % 5 == 0:
            look_ahead(0.95**5 * ((step + 1) / STEPS) ** 3)
    look_ahead(1.0)
    found = {mine: weights[name].detach() for name, mine in NAMES.items()}
    means = {f"norm_{g}_{h}": getattr(net[g + 1], f"norm{h}").running_mean for g, h in PLACES}
    return losses, {"weights": found, "means": means}


@pytest.mark.long
def test_twenty_steps_are_those_of_pytorch(x64):
    """Net, smoothed loss, groups of rates and decays, schedule, frozen parts, look-ahead."""
    pytest.importorskip("torch", reason="is compared with")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, BATCH, 32, 32, 3))
    y = rng.integers(0, 10, (STEPS, BATCH))
    net = record.record_net(WIDTHS, record.RECIPES["nesterov"])
    trainer = record.make_trainer(net, record.nesterov(BATCH, STEPS, WHITEN_STEPS))
    data = jnp.asarray(x), jnp.asarray(y)
    train_state = trainer.init(jax.random.key(0), (data[0][0], data[1][0]))
    params = train_state.params | {"whiten": {"kernel": record.whitening(data[0][0])}}
    losses, theirs = reference(params, x, y)

    def batch(step):
        return data[0][step], data[1][step]

    train_state = train_state._replace(params=params)

    def run(start):
        return record.train_steps(trainer, start, batch, STEPS, looks_ahead=True)

    end, found = jax.jit(run)(train_state)
    assert end.params["head"]["kernel"].dtype == jnp.float64
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-9)
    for name, weight in theirs["weights"].items():
        np.testing.assert_allclose(as_torch(end.params[name]), weight, atol=1e-9)
    for name, mean in theirs["means"].items():
        np.testing.assert_allclose(end.state[name]["mean"], mean, atol=1e-9)
    moved = float(jnp.abs(end.params["conv_3_2"]["kernel"] - params["conv_3_2"]["kernel"]).max())
    assert moved > 1e-3


def test_the_net_has_the_published_size():
    """1.97 million; the original also counts 1,152 scales of batch norm, which stay 1."""
    net = record.record_net(record.Config().widths, record.RECIPES["nesterov"])
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 32, 32, 3)))
    sizes = [24 * 64, 64 * 64, 64 * 256, 256 * 256, 256 * 256, 256 * 256]
    by_hand = 12 * 24 + 24 + 9 * sum(sizes) + 2 * (64 + 256 + 256) + 256 * 10
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == by_hand == 1_971_640


@pytest.mark.slow
def test_each_photo_is_flipped_in_every_second_epoch_and_seen_once_per_epoch():
    count, size = 23, 4  # three photos of an epoch are left out
    in_epoch, epochs = count // size, 6
    photos = np.zeros((count, 8, 8, 3), np.uint8)
    photos[:, :, 4:] = 255
    data = (jnp.asarray(photos), jnp.arange(count))
    steps = epochs * in_epoch
    batch = record.batches(jax.random.key(0), data, size, in_epoch, steps)
    flipped = np.full((epochs, count), -1)
    orders = []
    for step, (x, rows) in enumerate(map(jax.jit(batch), range(steps))):
        left = np.asarray(x[:, :, :3].mean((1, 2, 3)) > x[:, :, 5:].mean((1, 2, 3)))
        assert (flipped[step // in_epoch, rows] == -1).all()
        flipped[step // in_epoch, rows] = left
        orders.append(rows.tolist())
    assert len({str(orders[e * in_epoch : (e + 1) * in_epoch]) for e in range(epochs)}) == epochs
    assert ((flipped == -1).sum(1) == count % size).all()
    odd = np.arange(epochs)[:, None] % 2
    first = np.where(flipped == -1, -1, flipped ^ odd)  # undone, all epochs are the first
    assert all(len(set(row) - {-1}) == 1 for row in first.T)
    assert 0 < (first.max(0) == 1).sum() < count  # by chance in the first


@pytest.mark.slow
def test_shifts_reflect_the_border():
    x = np.arange(1, 2 * 5 * 6 * 3 + 1).reshape(2, 5, 6, 3).astype(np.uint8)
    seen = set()
    for seed in range(40):
        y = np.asarray(record.translated(jax.random.key(seed), jnp.asarray(x)))
        for before, after in zip(x, y, strict=True):
            room = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="reflect")
            moves = {
                (i, j)
                for i in range(5)
                for j in range(5)
                if (room[i : i + 5, j : j + 6] == after).all()
            }
            assert len(moves) == 1
            seen |= moves
    assert len(seen) > 20  # of 25


def test_whitened_patches_are_uncorrelated_with_variance_1():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(20, 9, 8, 3)) @ rng.normal(size=(3, 3))).astype(np.float32)
    whitening = jax.jit(record.whitening)
    kernel = jax.device_get(whitening(x, epsilon=0))
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    y = jn.conv(24, 2, padding="VALID", use_bias=False)
    y = jit_apply(y, {"kernel": kernel}, {}, x)[0][..., :12].reshape(-1, 12)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(12), atol=2e-4)
    norms = np.linalg.norm(kernel.reshape(12, 24)[:, :12], axis=0)
    assert (np.diff(norms) > 0).all()  # falling variances
    damped = np.asarray(whitening(x, epsilon=1e3)).reshape(12, 24)
    np.testing.assert_allclose(np.linalg.norm(damped, axis=0), 1e3**-0.5, rtol=0.1)


def test_the_rate_is_a_triangle():
    rates = [float(record.triangle(100)(step)) for step in range(101)]
    wanted = np.interp(range(101), [0, 23, 100], [0.2, 1, 0.07])
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_views_of_a_photo_and_its_mirror_image():
    rng = np.random.default_rng(0)
    weights, photos = (rng.normal(size=s).astype(np.float32) for s in ((6, 5, 3, 4), (2, 6, 5, 3)))

    def logits(x):
        return jnp.einsum("nhwc,hwck->nk", x**2, weights)

    views = jax.jit(partial(record.views, logits), static_argnums=1)
    alone, both, six = (jax.device_get(views(photos, tta)) for tta in (0, 1, 2))
    logits = jax.jit(logits)
    np.testing.assert_allclose(alone, logits(photos), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(both, views(photos[:, :, ::-1], 1), rtol=1e-5, atol=1e-4)
    assert (np.abs(alone - views(photos[:, :, ::-1], 0)) > 1e-2).any()
    room = np.pad(photos, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    by_hand = 0
    for share, row in ((0.5, 1), (0.25, 0), (0.25, 2)):
        view = room[:, row : row + 6, row : row + 5]
        by_hand += share / 2 * (np.asarray(logits(view)) + logits(view[:, :, ::-1]))
    np.testing.assert_allclose(six, by_hand, rtol=1e-5, atol=1e-4)


@pytest.mark.fast_cases("muon")
@pytest.mark.parametrize("optimizer", record.OPTIMIZERS)
def test_the_whitening_kernel_stays_and_its_bias_stops(optimizer):
    start = {
        "whiten": {"kernel": jnp.ones((2, 2, 3, 4))}, "whiten_bias": jnp.zeros(4),
        "conv_1_1": {"kernel": jnp.ones((3, 3, 4, 2))}, "norm_1_1": {"bias": jnp.zeros(2)},
        "head": {"kernel": jnp.ones((2, 10))},
    }  # fmt: skip
    transform = record.OPTIMIZERS[optimizer](size=8, steps=10, whiten_steps=3)
    state = transform.init(start)
    grads = jax.tree.map(jnp.ones_like, start)
    update = jax.jit(transform.update)
    bias = []
    params = start
    for _ in range(6):
        updates, state = update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        bias.append(float(params["whiten_bias"][0]))
    np.testing.assert_array_equal(params["whiten"]["kernel"], start["whiten"]["kernel"])
    assert 0 > bias[0] > bias[1] > bias[2] == bias[3] == bias[5]
    for name, leaf in (("conv_1_1", "kernel"), ("norm_1_1", "bias"), ("head", "kernel")):
        assert (params[name][leaf] < start[name][leaf]).all()


def test_muon_orthogonalizes_the_step_and_keeps_the_norm_of_kernels():
    kernel, slope = np.random.default_rng(0).normal(size=(2, 3, 3, 4, 5)).astype(np.float32)
    optimizer = record.muon(size=8, steps=10, whiten_steps=3)
    params, grads = ({"conv_1_1": {"kernel": a}} for a in (kernel, slope))
    run = jax.jit(lambda grads, params: optimizer.update(grads, optimizer.init(params), params)[0])
    updates = jax.device_get(run(grads, params))
    normed = kernel * np.sqrt(5) / np.linalg.norm(kernel)
    step = (kernel + updates["conv_1_1"]["kernel"] - normed).reshape(36, 5) / -0.24
    left, _, right = np.linalg.svd(grads["conv_1_1"]["kernel"].reshape(36, 5), full_matrices=False)
    inside = left.T @ step @ right.T  # diagonal: the gradient's directions, about equally long
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-3)
    assert 0.5 < np.diag(inside).min()
    assert np.diag(inside).max() < 1.3


@pytest.mark.long
@pytest.mark.parametrize("optimizer", record.OPTIMIZERS)
def test_runs_differ_by_seed_and_repeat(optimizer, monkeypatch, tmp_path):
    def few(name, split, **options):
        return load(name, f"{split}[:60]", **options)

    monkeypatch.setattr(tfds, "load", few)
    options = dict(
        optimizer=optimizer,
        width=0.05,
        epochs=1.5,
        batch_size=20,
        bfloat16=optimizer == "muon",
        output=tmp_path,
    )
    both = record.run(record.Config(runs=2, **options))
    loss = both.history["loss"]["train"]
    assert loss.shape == (2, 5)
    assert np.isfinite(loss).all()
    assert (loss[0] != loss[1]).all()
    assert (both.seconds > 0).all()
    second = record.run(record.Config(seed=1, **options))
    np.testing.assert_allclose(second.history["loss"]["train"][0], loss[1], rtol=1e-3)
    assert second.accuracies[0] == pytest.approx(both.accuracies[1], abs=0.02)


@pytest.mark.slow
def test_options():
    assert record.Config(optimizer="muon").recipe[:2] == (8.0, 2000)
    assert record.Config(epochs=3).recipe[:2] == (3, 1024)
    assert record.Config(width=0.25).widths == (16, 64, 64)
