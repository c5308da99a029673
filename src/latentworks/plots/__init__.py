"""Pictures of images, latents and numbers.

`tile` returns pixels, `atlas` the text of an HTML file, and every other function a figure, which it
does not save. A figure is laid out in pixels from its top left. Images are enlarged by whole
factors, so that their pixels stay crisp. No global state changes: no pyplot, no rcParams.
"""

from latentworks.plots.atlas import atlas
from latentworks.plots.comparison import comparison
from latentworks.plots.data import data_profile
from latentworks.plots.decoder_layers import UnknownLayer
from latentworks.plots.decoder_program import DecoderProgram
from latentworks.plots.drift import drift
from latentworks.plots.images import class_samples, interpolations, reconstructions, samples
from latentworks.plots.latents import latent_grid, latent_scatter
from latentworks.plots.neighbours import nearest_neighbours
from latentworks.plots.tiles import tile
from latentworks.plots.training import curves
from latentworks.plots.traversals import traversals, typical

__all__ = [
    "DecoderProgram",
    "UnknownLayer",
    "atlas",
    "class_samples",
    "comparison",
    "curves",
    "data_profile",
    "drift",
    "interpolations",
    "latent_grid",
    "latent_scatter",
    "nearest_neighbours",
    "reconstructions",
    "samples",
    "tile",
    "traversals",
    "typical",
]
