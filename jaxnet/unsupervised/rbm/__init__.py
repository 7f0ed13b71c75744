"""Restricted Boltzmann machines: energies of binary features, learned from samples."""

from jaxnet.unsupervised.rbm.likelihood import ais as ais
from jaxnet.unsupervised.rbm.likelihood import log_likelihood as log_likelihood
from jaxnet.unsupervised.rbm.likelihood import log_partition as log_partition
from jaxnet.unsupervised.rbm.machine import contrastive_divergence as contrastive_divergence
from jaxnet.unsupervised.rbm.machine import fit_rbm as fit_rbm
from jaxnet.unsupervised.rbm.machine import free_energy as free_energy
from jaxnet.unsupervised.rbm.machine import gibbs as gibbs
from jaxnet.unsupervised.rbm.machine import rbm as rbm
from jaxnet.unsupervised.rbm.units import Visible as Visible
from jaxnet.unsupervised.rbm.units import bernoulli as bernoulli
from jaxnet.unsupervised.rbm.units import gaussian as gaussian
