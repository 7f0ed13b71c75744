"""Layers, one kind per file.

How an x travels through a layer, for `jn.dense(4)` of dense.py:

1. `dense(4)` checks its options and returns `compose(forward, name=..., kind="dense")`. Bad options
   raise here, where the line of the user is still near.
2. `forward(m, x)` checks the shape of x, asks for entries by `m.param(name, initializer, shape)`,
   and computes with functions of `jaxnet.ops`, which hold all arithmetic that needs care: sums in
   float32 for 16-bit arrays, convolutions, attention, recurrences.
3. A layer with a state reads `m.state(...)` and writes `m.update(...)`; one that draws numbers asks
   for `m.key(name)`; one that differs in training reads `m.train`.
4. A layer of sequences takes x, (x, lengths) or a dict. `sequence.py` reads the three forms, and
   `Sequence.write` returns the form that came.
5. In a stream, `m.stream` is the length of what is kept, and the layer keeps it in its state:
   carries of `recurrent.py`, keys and values of `kv_cache.py`, the last steps of a convolution. A
   layer that cannot stream says why by `m._not_in_stream(why)`.

What most programs need is at `jn.`, the rest at `jn.layers`.
"""

from jaxnet.layers.additive_attention import additive_attention as additive_attention
from jaxnet.layers.dropout import drop_path as drop_path
from jaxnet.layers.dropout import spatial_dropout as spatial_dropout
from jaxnet.layers.embedding import sinusoidal as sinusoidal
from jaxnet.layers.embedding import sinusoidal_positions as sinusoidal_positions
from jaxnet.layers.feature_map import polynomial as polynomial
from jaxnet.layers.feature_map import random_fourier as random_fourier
from jaxnet.layers.feature_map import rbf as rbf
from jaxnet.layers.gru import gru_cell as gru_cell
from jaxnet.layers.local import locally_connected as locally_connected
from jaxnet.layers.lstm import lstm_cell as lstm_cell
from jaxnet.layers.norm import instance_norm as instance_norm
from jaxnet.layers.pool import adaptive_avg_pool as adaptive_avg_pool
from jaxnet.layers.pool import global_max_pool as global_max_pool
from jaxnet.layers.pool import l2_pool_channels as l2_pool_channels
from jaxnet.layers.pool import lp_pool as lp_pool
from jaxnet.layers.recurrent import initial_carry as initial_carry
from jaxnet.layers.response_norm import local_response_norm as local_response_norm
from jaxnet.layers.rnn import rnn_cell as rnn_cell
from jaxnet.layers.sequence import stack_rnn as stack_rnn
from jaxnet.layers.sequence import time_distributed as time_distributed
