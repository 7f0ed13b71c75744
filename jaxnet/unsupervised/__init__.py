"""Learning without labels: one namespace per field, such as `jn.unsupervised.rbm`.

A *fit* is a function `(key, x, features, **options) -> params`. Its x is (n, inputs), and the
params fit an ordinary layer, usually `jn.dense(features)`. So learned features are used in `serial`
like any other layer and can be trained further.
"""

from jaxnet.unsupervised import autoencoder as autoencoder
from jaxnet.unsupervised import dbn as dbn
from jaxnet.unsupervised import hmm as hmm
from jaxnet.unsupervised import kmeans as kmeans
from jaxnet.unsupervised import pretrain as pretrain
from jaxnet.unsupervised import rbm as rbm
from jaxnet.unsupervised import sparse_coding as sparse_coding
from jaxnet.unsupervised import whitening as whitening
