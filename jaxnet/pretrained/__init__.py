"""Published models: from a folder, a file or a name to a net with its weights, and back.

`load` and `save` read and write a model, `tokenizer` and `generate` its words, `load_adapter` and
`save_adapter` its small changes, and `processor` makes its input from pictures or sound. A model is
data: a family, one file for each kind, says what its configurations may hold, which net they
describe, and how its weights are named.
"""

from jaxnet.pretrained.adapters import load_adapter as load_adapter
from jaxnet.pretrained.adapters import save_adapter as save_adapter
from jaxnet.pretrained.families import decoder_config as decoder_config
from jaxnet.pretrained.families import decoder_table as decoder_table
from jaxnet.pretrained.generate import generate as generate
from jaxnet.pretrained.loading import load as load
from jaxnet.pretrained.loading import save as save
from jaxnet.pretrained.processors import processor as processor
from jaxnet.pretrained.tokenizer import Tokenizer as Tokenizer
from jaxnet.pretrained.tokenizer import tokenizer as tokenizer
