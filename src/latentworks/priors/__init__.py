"""Learned priors: networks that learn where latents lie, one module for each `prior.kind`."""
