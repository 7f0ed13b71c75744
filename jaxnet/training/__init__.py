"""Training: an objective, a step, and epochs in the user's own loop."""

from jaxnet.training.checkpoint import load as load
from jaxnet.training.checkpoint import save as save
from jaxnet.training.fit import Epoch as Epoch
from jaxnet.training.fit import evaluate as evaluate
from jaxnet.training.fit import fit as fit
from jaxnet.training.fit import predict as predict
from jaxnet.training.objective import average as average
from jaxnet.training.objective import carried as carried
from jaxnet.training.objective import learning_rule as learning_rule
from jaxnet.training.objective import supervised as supervised
from jaxnet.training.step import Step as Step
from jaxnet.training.step import TrainState as TrainState
from jaxnet.training.step import init_training as init_training
from jaxnet.training.step import make_step as make_step
from jaxnet.training.sweep import Sweep as Sweep
from jaxnet.training.sweep import sweep as sweep
