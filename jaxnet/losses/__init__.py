"""Losses missing from optax, or whose edge cases differ.

A loss is a function `loss(outputs, targets, *, options)`. It returns one value per example, or one
per entry for outputs with more axes, and `jn.supervised` takes the mean. Set options with
`functools.partial`:

    jn.supervised(net, jn.losses.cross_entropy)
    jn.supervised(net, partial(jn.losses.cross_entropy, label_smoothing=0.1))

Outputs are logits. Sums and logarithms are computed in float32 at least. Arrays of shapes that do
not fit raise an error, such as outputs (batch, 1) with targets (batch,), for which broadcasting
would silently give (batch, batch). A known target without a meaning raises as well, such as a label
outside [0, classes); inside `jit`, the loss of such a label is NaN.

`masked`, `weighted` and `ignore_label` map a loss or metric to another one.

Use optax for the rest: `optax.softmax_cross_entropy` (soft targets), `optax.squared_error` (its
mean is the mean squared error), `optax.huber_loss`, `optax.hinge_loss` (targets -1 and +1),
`optax.losses.multiclass_hinge_loss`, `optax.sigmoid_focal_loss`, `optax.cosine_distance`,
`optax.kl_divergence`, `optax.ntxent`, `optax.losses.triplet_margin_loss`.
"""

from jaxnet.losses.classification import cross_entropy as cross_entropy
from jaxnet.losses.classification import focal as focal
from jaxnet.losses.classification import sigmoid_cross_entropy as sigmoid_cross_entropy
from jaxnet.losses.margin import perceptron as perceptron
from jaxnet.losses.masks import ignore_label as ignore_label
from jaxnet.losses.masks import masked as masked
from jaxnet.losses.masks import weighted as weighted
from jaxnet.losses.regression import half_squared_error as half_squared_error
from jaxnet.losses.segmentation import dice as dice
from jaxnet.losses.sequence import ctc as ctc
from jaxnet.losses.sparsity import kl_sparsity as kl_sparsity
from jaxnet.losses.vocabulary import linear_cross_entropy as linear_cross_entropy
