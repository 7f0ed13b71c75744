"""Decodes token sequences from a model of the next token, and labels from the outputs of CTC.

`generate` writes text after prompts with any causal net from tokens to logits, and `iterate` yields
it as it is made: draws with filters, or by temperature=0 the most probable token. `beam_search`
looks for the most probable sequences. A net with further inputs, such as a source to translate,
takes the tokens last, and gets the others as `inputs`. Sequences of a batch do not influence each
other, and the loop stops when all of them have ended.
"""

from jaxnet.decoding.ctc import ctc_beam_search as ctc_beam_search
from jaxnet.decoding.ctc import ctc_greedy as ctc_greedy
from jaxnet.decoding.filters import filter_logits as filter_logits
from jaxnet.decoding.generate import Generated as Generated
from jaxnet.decoding.generate import generate as generate
from jaxnet.decoding.generate import iterate as iterate
from jaxnet.decoding.search import beam_search as beam_search
