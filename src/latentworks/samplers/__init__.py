"""Samplers of new latents: one module for each `sample.sampler.kind`."""
