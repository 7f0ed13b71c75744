"""Decodes token sequences from a model of the next token, and labels from the outputs of CTC.

`generate` writes text after prompts with any causal net from tokens to logits, and `iterate` yields
it as it is made. They compile inside and are called outside `jit`.

The searches `greedy`, `sample` and `beam_search` run under `jit`. They take a stream:
`jn.stream(net, length)` of a net that maps tokens (batch, time) to logits (batch, time,
vocabulary), with its params, and with its state from `jn.start_stream` or after a prompt. A net
with further inputs, such as a source to translate, takes the tokens last, and the search gets the
other inputs as `inputs`.

Their shapes are fixed: call them inside a jitted function of the params and the inputs to compile
it once. The loop stops when all sequences have ended. Sequences of a batch do not influence each
other.
"""

from jaxnet.decoding.ctc import ctc_beam_search as ctc_beam_search
from jaxnet.decoding.ctc import ctc_greedy as ctc_greedy
from jaxnet.decoding.filters import filter_logits as filter_logits
from jaxnet.decoding.generate import Generated as Generated
from jaxnet.decoding.generate import generate as generate
from jaxnet.decoding.generate import iterate as iterate
from jaxnet.decoding.search import beam_search as beam_search
from jaxnet.decoding.search import greedy as greedy
from jaxnet.decoding.search import sample as sample
