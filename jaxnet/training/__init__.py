"""Training: objectives, trainers, and epochs in a loop that you write."""

from jaxnet.training.epoch import Position as Position
from jaxnet.training.log import append_log as append_log
from jaxnet.training.objective import learning_rule as learning_rule
from jaxnet.training.objective import truncated_bptt as truncated_bptt
from jaxnet.training.sweep import Sweep as Sweep
