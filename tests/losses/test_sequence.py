import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses
from tests.losses.common import close, slopes

RNG = np.random.default_rng(7)


def test_ctc_by_hand():
    """Two steps: "a" has the alignments aa, a-, -a; "ab" only ab; the empty sequence only --."""
    p = jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]])
    z = jnp.log(p)

    labels, n = jnp.array([[1, 0], [1, 2], [0, 0]]), jnp.array([1, 2, 0])
    loss = jax.jit(losses.ctc())(jnp.repeat(z, 3, 0), (labels, n))
    want = [0.3 * 0.6 + 0.3 * 0.1 + 0.5 * 0.6, 0.3 * 0.3, 0.5 * 0.1]
    close(jnp.exp(-loss), want, 1e-5)
    # blank last instead of first
    z = z[..., jnp.array([1, 2, 0])]
    last = jax.jit(losses.ctc(blank=2))(z, (jnp.array([[0]]), jnp.array([1])))
    close(jnp.exp(-last), want[:1], 1e-5)


def test_ctc_of_labels_without_an_alignment():
    """ "aa" needs three steps. The loss is large, and finite."""
    value, grad = slopes(losses.ctc(), jnp.zeros((1, 2, 3)), (jnp.array([[1, 1]]), jnp.array([2])))
    assert 1e4 < value < 1e6 and jnp.isfinite(grad).all()


def test_ctc_padding_does_not_count():
    z = jnp.array(RNG.normal(size=(2, 6, 4)))
    labels, n = jnp.array([[1, 2, 3], [3, 3, 9]]), jnp.array([3, 2])
    lengths = jnp.array([6, 4])
    whole, grad = slopes(lambda z, y: losses.ctc()((z, lengths), y), z, (labels, n))
    cut = jax.jit(losses.ctc())(z[1:, :4], (labels[1:, :2], n[1:]))
    close(whole[1], cut[0], 1e-5)
    assert (grad[1, 4:] == 0).all() and (grad[1, :4] != 0).any()
    with pytest.raises(ValueError, match=r"label_lengths \(batch,\), got"):
        losses.ctc()(z, (labels, n[:1]))


def test_ctc_matches_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")  # torch 2.13.0
    z = RNG.normal(size=(3, 7, 5))
    labels = np.array([[1, 2, 2], [4, 0, 0], [3, 1, 4]])
    lengths, n = np.array([7, 4, 6]), np.array([3, 1, 3])
    theirs = torch.tensor(z, requires_grad=True)
    value = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1), torch.tensor(labels), torch.tensor(lengths),
        torch.tensor(n), reduction="none",
    )  # fmt: skip
    value.sum().backward()
    with jax.enable_x64(True):
        targets = jnp.array(labels), jnp.array(n)
        values, grads = slopes(
            lambda z, y: losses.ctc()((z, jnp.array(lengths)), y), jnp.array(z), targets
        )
        close(values, value.detach().numpy())
        close(grads, theirs.grad.numpy(), 1e-9)
