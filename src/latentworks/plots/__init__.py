"""Pictures of images, latents and numbers.

`tile` returns pixels and the others a figure, which they do not save. A figure is laid out in
pixels from its top left, and images are enlarged by whole factors, so that their pixels stay crisp.
Nothing global is touched: no pyplot, no rcParams.
"""

from latentworks.plots.comparison import comparison
from latentworks.plots.data import data_profile
from latentworks.plots.images import interpolations, reconstructions, samples
from latentworks.plots.latents import latent_grid, latent_scatter
from latentworks.plots.tiles import tile
from latentworks.plots.training import curves

__all__ = [
    "comparison",
    "curves",
    "data_profile",
    "interpolations",
    "latent_grid",
    "latent_scatter",
    "reconstructions",
    "samples",
    "tile",
]
