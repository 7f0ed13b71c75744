"""Visualization: each function takes arrays and returns a matplotlib Figure.

A notebook displays a figure that is the last value of a cell; `save` writes it to a file.
"""

from jaxnet.viz.attention import attention as attention
from jaxnet.viz.boxes import boxes as boxes
from jaxnet.viz.confusion import confusion as confusion
from jaxnet.viz.curves import curves as curves
from jaxnet.viz.curves import history as history
from jaxnet.viz.decision import decision as decision
from jaxnet.viz.drawings import attention_steps as attention_steps
from jaxnet.viz.drawings import lstm_cell as lstm_cell
from jaxnet.viz.drawings import sliding_window as sliding_window
from jaxnet.viz.drawings import unrolled as unrolled
from jaxnet.viz.embedding import embedding as embedding
from jaxnet.viz.feature_maps import feature_maps as feature_maps
from jaxnet.viz.filters import filters as filters
from jaxnet.viz.graph import graph as graph
from jaxnet.viz.heatmap import heatmap as heatmap
from jaxnet.viz.images import images as images
from jaxnet.viz.masks import masks as masks
from jaxnet.viz.posteriors import posteriors as posteriors
from jaxnet.viz.receptive import receptive as receptive
from jaxnet.viz.spectrogram import spectrogram as spectrogram
from jaxnet.viz.style import save as save
from jaxnet.viz.words import words as words
