"""Metrics of images and latents. Every random choice has a fixed seed.

Images are uint8 [N, H, W, C], often a memory map larger than memory, so they are read in chunks.
A function `*_metrics` returns a section of metrics.json, or a part of a section.
"""

from latentworks.metrics.frechet import frechet_distance
from latentworks.metrics.generation import (
    MAX_SEEN,
    NUM_FLOORS,
    Seen,
    class_balance,
    class_metrics,
    generation_metrics,
    label_agreement,
)
from latentworks.metrics.kernel import kernel_distance
from latentworks.metrics.latents import (
    MAX_TRUSTED,
    active_units,
    latent_metrics,
    trustworthiness,
)
from latentworks.metrics.nearest import nearest_images
from latentworks.metrics.neighbours import NUM_NEAREST, neighbour_metrics
from latentworks.metrics.pixels import CHUNK_IMAGES, chunks, disjoint_subsets, subset, thumbnails
from latentworks.metrics.reconstructions import (
    GREY_ENTROPY,
    MAX_PSNR,
    binary_crossentropy,
    hardly_better,
    mean_image,
    mean_image_mse,
    mean_squared_error,
    peak_signal_to_noise,
    reconstruction_metrics,
    structural_similarity,
)
from latentworks.metrics.samples import (
    MAX_PROJECTED,
    MAX_SEARCHED,
    distance_ratio,
    memorisation,
    nearest_distances,
    project,
    quantile_pairs,
    sample_metrics,
    sliced_wasserstein,
)

__all__ = [
    "CHUNK_IMAGES",
    "GREY_ENTROPY",
    "MAX_PROJECTED",
    "MAX_PSNR",
    "MAX_SEARCHED",
    "MAX_SEEN",
    "MAX_TRUSTED",
    "NUM_FLOORS",
    "NUM_NEAREST",
    "Seen",
    "active_units",
    "binary_crossentropy",
    "chunks",
    "class_balance",
    "class_metrics",
    "disjoint_subsets",
    "distance_ratio",
    "frechet_distance",
    "generation_metrics",
    "hardly_better",
    "kernel_distance",
    "label_agreement",
    "latent_metrics",
    "mean_image",
    "mean_image_mse",
    "mean_squared_error",
    "memorisation",
    "nearest_distances",
    "nearest_images",
    "neighbour_metrics",
    "peak_signal_to_noise",
    "project",
    "quantile_pairs",
    "reconstruction_metrics",
    "sample_metrics",
    "sliced_wasserstein",
    "structural_similarity",
    "subset",
    "thumbnails",
    "trustworthiness",
]
