"""The interface of every model, for code that does not import Keras."""

from typing import Any, Protocol

Tensor = Any  # an array of NumPy or of Keras's backend


class Network(Protocol):
    """An encoder and a decoder, trained together."""

    image_shape: tuple[int, int, int]  # height, width, channels
    latent_dim: int
    levels: tuple[int, ...] | None  # of quantised latents: see `latentworks.quantization`
    num_classes: int  # of the labels that the model takes; 0 for models without labels
    encoder: Any  # keras.Model
    decoder: Any  # keras.Model

    def graphs(self) -> dict[str, Any]:
        """Return the models to export: `encoder` for `encode`, `decoder` for `decode`."""
        ...

    def encode(self, images: Tensor, labels: Tensor = None) -> Tensor:
        """Encode images uint8 [B, H, W, C] to latents float32 [B, D]."""
        ...

    def decode(self, latents: Tensor, labels: Tensor = None) -> Tensor:
        """Decode latents [B, D] to images float32 [B, H, W, C] in [0, 1]."""
        ...
