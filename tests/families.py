"""A small config of each model family. A new family is tested as soon as the union has it."""

from typing import Any, get_args

import pytest

from latentworks.models.config import AutoencoderConfig, ModelConfig

NETWORK = {"latent_dim": 2, "architecture": "plain", "loss": "binary_crossentropy"}
KNOBS = {
    "latent_l2": 0.01,
    "latent_noise": 0.1,
    "beta": 1.0,
    "kl_warmup_steps": 3,
    "label_dropout": 0.2,
    "adversarial_weight": 1.0,
    "discriminator_width": 16,
    "levels": (4, 3),
}
NUM_CLASSES = 3  # of the families that take labels


def autoencoder(**changes: Any) -> AutoencoderConfig:
    """A config of the book's autoencoder, with no term added to the reconstruction loss."""
    plain = {**NETWORK, "filters": (4, 8), "latent_l2": 0.0, "latent_noise": 0.0}
    return AutoencoderConfig(kind="autoencoder", **{**plain, **changes})


def _small(member: Any) -> Any:
    (kind,) = get_args(member.model_fields["kind"].annotation)
    given = {**NETWORK, **KNOBS, "kind": kind, "filters": (4, 8)}
    return member(**{name: given[name] for name in member.model_fields if name in given})


MEMBERS = get_args(get_args(ModelConfig)[0])
FAMILIES = [_small(member) for member in MEMBERS]
OF_KIND = {config.kind: config for config in FAMILIES}
every_family = pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.kind)
