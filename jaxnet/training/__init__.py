"""Training: objectives, trainers, and epochs in a loop that you write.

How a batch travels, for `for epoch in jn.fit(trainer, train_state, data, evaluate=held_out)`:

1. `objective.py`: an objective is a layer of a batch. Its values, one per example, and its metrics
   become means by `averaged`, in which each example has a weight: 1, or 0 for padding.
2. `trainer.py`: `update(train_state, batch, mask)` takes the gradient of the mean loss, asks the
   optimizer, and returns the next train state. With `accumulate`, `accumulate.py` sums over parts.
   `loss_scale.py` keeps gradients of float16 in range, and `alternate.py` joins several trainers.
3. `source.py`: `Resident` holds arrays on the device and runs many steps per program, shuffled
   inside it. `Batches` takes batches from an iterable, one program per step. Both go from one
   `Position` (`epoch.py`) to another, so that a resumed run ends with the same bits.
4. `loop.py`: `fit` yields an `Epoch` after each pass: train state, means, losses, position.
   `evaluate.py` measures `held_out` with the params after it, a batch at a time.
5. `targets.py` looks at the targets before anything is computed, `watch.py` warns about
   recompilation and values that are not finite, `placement.py` knows meshes and processes.
6. `checkpoint.py`, `checkpoints.py` and `stored.py` write what a run needs to go on; `described.py`
   notes what it was, so that another run does not continue it by mistake.
"""

from jaxnet.training.epoch import Position as Position
from jaxnet.training.interrupts import recover as recover
from jaxnet.training.log import append_log as append_log
from jaxnet.training.objective import learning_rule as learning_rule
from jaxnet.training.objective import truncated_bptt as truncated_bptt
from jaxnet.training.perceptron import delta_rule as delta_rule
from jaxnet.training.perceptron import mistake_bound as mistake_bound
from jaxnet.training.perceptron import perceptron_rule as perceptron_rule
from jaxnet.training.perceptron import train_perceptron as train_perceptron
from jaxnet.training.sweep import Sweep as Sweep
