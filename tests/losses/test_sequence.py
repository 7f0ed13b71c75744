import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses
from jaxnet.services.jax_versions import enable_x64
from tests.helpers import refused
from tests.losses.common import close, slopes

RNG = np.random.default_rng(7)


def test_sizes_beyond_the_arrays_give_nan():
    """One step of two classes: label 1, the empty sequence, and sizes and labels that are wrong."""
    lengths = jnp.array([1, 1, 2, -1, 1, 1, 1, 1])
    labels = jnp.array([1, 0, 1, 1, 2, 0, 1, 1])[:, None]
    n = jnp.array([1, 0, 1, 1, 1, 1, 2, -1])
    z = jnp.log(jnp.full((8, 1, 2), jnp.array([0.25, 0.75])))
    values = jax.jit(losses.ctc)((z, lengths), (labels, n))
    close(jnp.exp(-values[:2]), [0.75, 0.25], 1e-5)
    assert np.isnan(values[2:]).all()


@pytest.mark.slow
def test_classes_of_minus_infinity_are_left_out():
    """Of 11, 1- and -1 among four paths of equal probability; and a path that is impossible."""
    z = jnp.zeros((1, 2, 3)).at[..., 2].set(-jnp.inf)
    y = (jnp.array([[1]]), jnp.array([1]))
    value, slope = slopes(losses.ctc, z, y)
    close(value, np.log(4 / 3), 1e-6)
    close(slope[..., :2], slopes(losses.ctc, z[..., :2], y)[1], 1e-6)
    aa = jnp.array([[1, 1]]), jnp.array([2])  # needs three steps
    for given in (z.at[..., 1].set(-jnp.inf), y), (jnp.zeros((1, 2, 3)), aa):
        value, slope = slopes(losses.ctc, *given)
        assert 1e4 < value < 1e6
        assert jnp.isfinite(slope).all()


@pytest.mark.slow
def test_ctc_padding_does_not_count():
    z = jnp.array(RNG.normal(size=(2, 6, 4)))
    labels = jnp.array([[1, 2, 3], [3, 3, 9]])
    n = jnp.array([3, 2])
    lengths = jnp.array([6, 4])
    whole, grad = slopes(lambda z, y: losses.ctc((z, lengths), y), z, (labels, n))
    cut = jax.jit(losses.ctc)(z[1:, :4], (labels[1:, :2], n[1:]))
    close(whole[1], cut[0], 1e-5)
    assert (grad[1, 4:] == 0).all()
    assert (grad[1, :4] != 0).any()
    hidden = losses.ctc((z.at[1, 4:].set(jnp.nan), lengths), (labels, n))
    close(hidden, whole, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "labels", "n", "message"),
    [
        (6, [1, 4], 2, r"ctc: labels must be in \[0, 4\), got 4"),
        (6, [1, 0], 2, "ctc: labels must differ from blank, 0"),
        (7, [1, 2], 2, r"ctc: lengths must be in \[0, 7\), got 7"),
        (6, [1, 2], 3, r"ctc: label_lengths must be in \[0, 3\), got 3"),
    ],
)
def test_ctc_of_what_no_probability_is_defined_for(lengths, labels, n, message):
    """NaN where values are not known, else an error; the other examples are not affected."""
    z = jnp.array(RNG.normal(size=(2, 6, 4)))
    lengths = np.array([6, lengths])
    labels = np.array([[3, 9], labels])
    n = np.array([1, n])
    with pytest.raises(ValueError, match=message):
        losses.ctc((z, lengths), (labels, n))

    def loss(z, y):
        return losses.ctc((z, y[0]), y[1:])

    values, grads = slopes(loss, z, (lengths, labels, n))  # traced
    assert np.isnan(values).tolist() == [False, True]
    assert jnp.isfinite(grads[0]).all()


LABELS = jnp.ones((2, 3), int)
N = jnp.array([3, 2])


@refused(
    [
        (0, jnp.ones((2, 6, 4)), (LABELS, N[:1]), r"ctc: label_lengths must have shape \(batch,\)"),
        (0, jnp.ones((2, 6)), (LABELS, N), r"logits must have shape \(batch, steps, classes\)"),
        (0, [[1.0]], (LABELS, N), r"ctc: outputs must be logits or \(logits, lengths\)"),
        (0, (jnp.ones((2, 6, 4)), None), (LABELS, N), "ctc: lengths must be a JAX or NumPy array"),
        (0, (jnp.ones((2, 6, 4)), jnp.ones(2)), (LABELS, N), "ctc: lengths must hold integers"),
        (0, jnp.ones((2, 6, 4)), LABELS, r"ctc: targets must be \(labels, label_lengths\)"),
        (0, jnp.ones((2, 6, 4)), (LABELS * 0.5, N), "ctc: labels must hold integers"),
        (4, jnp.ones((2, 6, 4)), (LABELS, N), "ctc: blank must be 0 to 3, the last class, got 4"),
    ],
    (ValueError, TypeError),
)
def test_messages(blank, outputs, targets):
    losses.ctc(outputs, targets, blank=blank)


@pytest.mark.slow
def test_ctc_matches_pytorch(torch):
    z = RNG.normal(size=(3, 7, 5))
    labels = np.array([[1, 2, 2], [4, 0, 0], [3, 1, 4]])
    lengths = np.array([7, 4, 6])
    n = np.array([3, 1, 3])
    theirs = torch.tensor(z, requires_grad=True)
    sizes = map(torch.tensor, (labels, lengths, n))
    log_p = theirs.log_softmax(-1).transpose(0, 1)
    value = torch.nn.functional.ctc_loss(log_p, *sizes, reduction="none")
    value.sum().backward()
    with enable_x64(True):
        targets = jnp.array(labels), jnp.array(n)

        def loss(z, y):
            return losses.ctc((z, jnp.array(lengths)), y)

        values, grads = slopes(loss, jnp.array(z), targets)
        close(values, value.detach().numpy())
        close(grads, theirs.grad.numpy(), 1e-9)
