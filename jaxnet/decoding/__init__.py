"""Decoding: token sequences from a model of the next token, labels from the outputs of CTC.

`generate` writes text after prompts with any causal net from tokens to logits, and `tokens` yields
it as it is made. They compile inside and are called outside `jit`.

The searches `greedy`, `sample` and `beam_search` take a model of one step and run under `jit`. Such
a model is a function `step(carry, tokens) -> (carry, logits)`: tokens (batch,) are the previous
tokens, logits (batch, vocabulary) those of the next, and the carry is any pytree of arrays with the
batch axis first, such as a recurrent state, the caches of a transformer, or the outputs of an
encoder.

All shapes are fixed, so everything here runs under `jit`: call it inside a jitted function of the
params and the first carry to compile it once. The loop stops when all sequences have ended.
Sequences of a batch do not influence each other.
"""

from jaxnet.decoding.ctc import ctc_beam_search as ctc_beam_search
from jaxnet.decoding.ctc import ctc_greedy as ctc_greedy
from jaxnet.decoding.filters import filter_logits as filter_logits
from jaxnet.decoding.generate import Generated as Generated
from jaxnet.decoding.generate import generate as generate
from jaxnet.decoding.generate import tokens as tokens
from jaxnet.decoding.search import beam_search as beam_search
from jaxnet.decoding.search import greedy as greedy
from jaxnet.decoding.search import sample as sample
