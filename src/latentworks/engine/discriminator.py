"""A discriminator for the second phase, which learns to tell reconstructions from images.

The discriminator is a PatchGAN (Isola et al. 2017): a small convolutional network that gives a
logit for each patch of an image. It learns the hinge loss (Lim and Ye 2017)

    mean(max(0, 1 - logits of images)) + mean(max(0, 1 + logits of reconstructions))

and the model learns weight * -mean(logits of reconstructions). Each loss reaches the variables of
its own side alone. Adam treats each variable by itself, so one optimizer trains both sides as two
optimizers of the same learning rate would.
"""

from typing import Any

from latentworks.engine.backend import keras
from latentworks.models.autoencoder import Autoencoder
from latentworks.models.network import Tensor

FILTERS = (32, 64)  # of convolutions with stride 2; a logit sees a patch of 18 x 18 pixels
SEED = 0


class WithDiscriminator(keras.Model):
    """An autoencoder and its discriminator, which are one model for `fit` and for a checkpoint.

    The autoencoder does not know the discriminator, and is saved without it.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(name="with_discriminator")
        self.autoencoder = autoencoder
        self.discriminator = discriminator(autoencoder.image_shape)
        self.built = True  # both parts are built, and no other layer has weights

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.autoencoder(inputs, training=training)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        return self.autoencoder.compute_loss(x, y, y_pred, sample_weight, training)

    @property
    def metrics(self) -> list[Any]:
        """The metrics of the autoencoder, too, which Keras leaves out for an inner model."""
        own = [each for each in self.autoencoder.metrics if each.name != "loss"]
        return [*super().metrics, *own]

    def added(self, images: Tensor, reconstructions: Tensor, weight: float) -> Tensor:
        """A term with the value 0, whose gradients are those of both losses.

        Images and reconstructions are float32 [B, H, W, C] in [0, 1].
        """
        ops, judge = keras.ops, self.discriminator
        of_images, of_others = judge(images), judge(reconstructions)
        of_fixed = judge(ops.stop_gradient(reconstructions))  # no gradient for the model
        own = ops.mean(ops.relu(1 - of_images)) + ops.mean(ops.relu(1 + of_fixed))
        # For the discriminator, the gradients of the two terms cancel. If its weights were frozen
        # in its place, nothing would order their reading and their next step.
        deception = ops.mean(of_fixed) - ops.mean(of_others)
        return weight * deception + own - ops.stop_gradient(own)


def discriminator(image_shape: tuple[int, int, int]) -> keras.Model:
    """Build a network from images float32 [B, H, W, C] in [0, 1] to logits [B, h, w, 1].

    Its initial weights are always the same, and draw from no other random state.
    """
    layers = [keras.layers.Rescaling(2, offset=-1, name="scale")]
    for number, filters in enumerate(FILTERS, start=1):
        layers.append(_conv(filters, 4, 2, number, activation="silu"))
    layers.append(_conv(1, 3, 1, len(FILTERS) + 1))
    return keras.Sequential(
        [keras.layers.Input(image_shape, name="images"), *layers], name="discriminator"
    )


def _conv(filters: int, kernel: int, stride: int, number: int, **settings: Any) -> Any:
    return keras.layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        kernel_initializer=keras.initializers.HeNormal(SEED + number),
        name=f"conv_{number}",
        **settings,
    )
