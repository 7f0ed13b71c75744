"""Hidden Markov models: chains of states, emissions, and expectation maximization."""

from jaxnet.unsupervised.hmm.emissions import Emission as Emission
from jaxnet.unsupervised.hmm.emissions import categorical as categorical
from jaxnet.unsupervised.hmm.emissions import gaussian_mixture as gaussian_mixture
from jaxnet.unsupervised.hmm.emissions import uniform_segments as uniform_segments
from jaxnet.unsupervised.hmm.markov import LOG_ZERO as LOG_ZERO
from jaxnet.unsupervised.hmm.markov import first_state as first_state
from jaxnet.unsupervised.hmm.markov import forward as forward
from jaxnet.unsupervised.hmm.markov import left_to_right as left_to_right
from jaxnet.unsupervised.hmm.markov import log_probabilities as log_probabilities
from jaxnet.unsupervised.hmm.markov import posteriors as posteriors
from jaxnet.unsupervised.hmm.markov import scaled_likelihoods as scaled_likelihoods
from jaxnet.unsupervised.hmm.markov import viterbi as viterbi
from jaxnet.unsupervised.hmm.model import baum_welch as baum_welch
from jaxnet.unsupervised.hmm.model import fit_hmm as fit_hmm
from jaxnet.unsupervised.hmm.model import hmm as hmm
