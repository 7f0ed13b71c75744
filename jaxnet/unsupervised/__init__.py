"""Learning without labels: restricted Boltzmann machines, autoencoders, sparse coding and features.

A *fit* is a function `(key, x, features, **options) -> params`, where x is (n, inputs) and the
params are those of an ordinary layer, `jn.dense(features)` mostly. So what was learned without
labels stands in `serial` like any other layer and can be trained further.
"""

from jaxnet.unsupervised.autoencoder import additive_noise as additive_noise
from jaxnet.unsupervised.autoencoder import contractive_reconstruction as contractive_reconstruction
from jaxnet.unsupervised.autoencoder import denoising_reconstruction as denoising_reconstruction
from jaxnet.unsupervised.autoencoder import fit_sparse_autoencoder as fit_sparse_autoencoder
from jaxnet.unsupervised.autoencoder import masking_noise as masking_noise
from jaxnet.unsupervised.autoencoder import reconstruction as reconstruction
from jaxnet.unsupervised.autoencoder import sparse_reconstruction as sparse_reconstruction
from jaxnet.unsupervised.autoencoder import with_code as with_code
from jaxnet.unsupervised.compressed_sensing import basis_pursuit as basis_pursuit
from jaxnet.unsupervised.compressed_sensing import distortion as distortion
from jaxnet.unsupervised.compressed_sensing import gaussian_entries as gaussian_entries
from jaxnet.unsupervised.compressed_sensing import projection_features as projection_features
from jaxnet.unsupervised.compressed_sensing import random_projection as random_projection
from jaxnet.unsupervised.compressed_sensing import sign_entries as sign_entries
from jaxnet.unsupervised.compressed_sensing import sparse_entries as sparse_entries
from jaxnet.unsupervised.dbn import fit_dbn as fit_dbn
from jaxnet.unsupervised.dbn import generate as generate
from jaxnet.unsupervised.dbn import mlp_params as mlp_params
from jaxnet.unsupervised.kmeans import fit_kmeans as fit_kmeans
from jaxnet.unsupervised.kmeans import fit_random_vectors as fit_random_vectors
from jaxnet.unsupervised.kmeans import fit_rbf_centres as fit_rbf_centres
from jaxnet.unsupervised.kmeans import kmeans as kmeans
from jaxnet.unsupervised.kmeans import nearest as nearest
from jaxnet.unsupervised.kmeans import random_vectors as random_vectors
from jaxnet.unsupervised.kmeans import triangle as triangle
from jaxnet.unsupervised.pretrain import pretrain_greedy as pretrain_greedy
from jaxnet.unsupervised.rbm import Annealed as Annealed
from jaxnet.unsupervised.rbm import Visible as Visible
from jaxnet.unsupervised.rbm import ais as ais
from jaxnet.unsupervised.rbm import bernoulli as bernoulli
from jaxnet.unsupervised.rbm import contrastive_divergence as contrastive_divergence
from jaxnet.unsupervised.rbm import fit_rbm as fit_rbm
from jaxnet.unsupervised.rbm import fit_whole_rbm as fit_whole_rbm
from jaxnet.unsupervised.rbm import free_energy as free_energy
from jaxnet.unsupervised.rbm import gaussian as gaussian
from jaxnet.unsupervised.rbm import gibbs as gibbs
from jaxnet.unsupervised.rbm import log_likelihood as log_likelihood
from jaxnet.unsupervised.rbm import log_partition as log_partition
from jaxnet.unsupervised.rbm import pseudo_likelihood as pseudo_likelihood
from jaxnet.unsupervised.rbm import rbm as rbm
from jaxnet.unsupervised.rbm import softmax as softmax
from jaxnet.unsupervised.sparse_coding import fista as fista
from jaxnet.unsupervised.sparse_coding import fit_dictionary as fit_dictionary
from jaxnet.unsupervised.sparse_coding import fit_sparse_coding as fit_sparse_coding
from jaxnet.unsupervised.sparse_coding import ista as ista
from jaxnet.unsupervised.sparse_coding import soft_threshold as soft_threshold
from jaxnet.unsupervised.sparse_coding import sparse_code as sparse_code
from jaxnet.unsupervised.sparse_coding import sparse_cost as sparse_cost
from jaxnet.unsupervised.whitening import fit_pca as fit_pca
from jaxnet.unsupervised.whitening import fit_whitening as fit_whitening
