"""Losses missing from optax, or whose edge cases differ.

A loss is a function `loss(outputs, targets)` that returns one value per example, or one per entry
for outputs with more axes; `jn.supervised` takes the mean. Sums and logarithms are computed in
float32 at least. Outputs (batch, 1) with targets (batch,) raise an error, where broadcasting would
silently give (batch, batch).

Use optax for the rest: `optax.softmax_cross_entropy_with_integer_labels` (class labels),
`optax.softmax_cross_entropy` (soft targets), `optax.sigmoid_binary_cross_entropy` (binary, logits),
`optax.squared_error` (its mean is the mean squared error), `optax.huber_loss`, `optax.hinge_loss`
(targets -1 and +1), `optax.losses.multiclass_hinge_loss`, `optax.cosine_distance`,
`optax.kl_divergence`, `optax.ntxent`, `optax.triplet_margin_loss`.
"""

from jaxnet.losses.classification import binary_cross_entropy as binary_cross_entropy
from jaxnet.losses.classification import categorical_cross_entropy as categorical_cross_entropy
from jaxnet.losses.classification import cross_entropy as cross_entropy
from jaxnet.losses.classification import focal_loss as focal_loss
from jaxnet.losses.classification import sigmoid_cross_entropy as sigmoid_cross_entropy
from jaxnet.losses.classification import sigmoid_focal_loss as sigmoid_focal_loss
from jaxnet.losses.classification import weighted as weighted
from jaxnet.losses.margin import multiclass_perceptron as multiclass_perceptron
from jaxnet.losses.margin import perceptron as perceptron
from jaxnet.losses.masks import ignore_label as ignore_label
from jaxnet.losses.masks import masked as masked
from jaxnet.losses.masks import masked_mean as masked_mean
from jaxnet.losses.regression import half_squared_error as half_squared_error
from jaxnet.losses.segmentation import dice as dice
from jaxnet.losses.sequence import ctc as ctc
from jaxnet.losses.sparsity import kl_sparsity as kl_sparsity
