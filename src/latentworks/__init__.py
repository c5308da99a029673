"""latentworks: a training pipeline for generative autoencoders."""
