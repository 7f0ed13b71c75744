"""Hidden Markov models: chains, emissions, and expectation maximization."""

from jaxnet.unsupervised.hmm.emissions import Emission as Emission
from jaxnet.unsupervised.hmm.emissions import kmeans_init as kmeans_init
from jaxnet.unsupervised.hmm.emissions import categorical as categorical
from jaxnet.unsupervised.hmm.emissions import gaussian_mixture as gaussian_mixture
from jaxnet.unsupervised.hmm.emissions import uniform_segments as uniform_segments
from jaxnet.unsupervised.hmm.model import EMResult as EMResult
from jaxnet.unsupervised.hmm.model import baum_welch as baum_welch
from jaxnet.unsupervised.hmm.model import fit_hmm as fit_hmm
from jaxnet.unsupervised.hmm.model import hmm as hmm
from jaxnet.unsupervised.hmm.model import sample_hmm as sample_hmm
from jaxnet.unsupervised.hmm.markov import NEVER as NEVER
from jaxnet.unsupervised.hmm.markov import Counts as Counts
from jaxnet.unsupervised.hmm.markov import first_state as first_state
from jaxnet.unsupervised.hmm.markov import hmm_backward as hmm_backward
from jaxnet.unsupervised.hmm.markov import hmm_counts as hmm_counts
from jaxnet.unsupervised.hmm.markov import hmm_forward as hmm_forward
from jaxnet.unsupervised.hmm.markov import hmm_posteriors as hmm_posteriors
from jaxnet.unsupervised.hmm.markov import left_to_right as left_to_right
from jaxnet.unsupervised.hmm.markov import log_probabilities as log_probabilities
from jaxnet.unsupervised.hmm.markov import scaled_likelihoods as scaled_likelihoods
from jaxnet.unsupervised.hmm.markov import to_logits as to_logits
from jaxnet.unsupervised.hmm.markov import viterbi as viterbi
