"""Training: objectives, trainers, and epochs in a loop that you write."""

from jaxnet.training.averages import ema as ema
from jaxnet.training.by_path import by_path as by_path
from jaxnet.training.checkpoint import load as load
from jaxnet.training.checkpoint import save as save
from jaxnet.training.checkpoints import Checkpoints as Checkpoints
from jaxnet.training.epoch import Epoch as Epoch
from jaxnet.training.epoch import Position as Position
from jaxnet.training.evaluate import evaluate as evaluate
from jaxnet.training.evaluate import predict as predict
from jaxnet.training.log import log as log
from jaxnet.training.loop import fit as fit
from jaxnet.training.objective import augmented as augmented
from jaxnet.training.objective import learning_rule as learning_rule
from jaxnet.training.objective import per_example as per_example
from jaxnet.training.objective import supervised as supervised
from jaxnet.training.objective import truncated_bptt as truncated_bptt
from jaxnet.training.sweep import Sweep as Sweep
from jaxnet.training.sweep import sweep as sweep
from jaxnet.training.trainer import Trainer as Trainer
from jaxnet.training.trainer import TrainState as TrainState
from jaxnet.training.trainer import trainer as trainer
