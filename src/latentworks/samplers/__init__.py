"""How new latents are drawn. One file for each `sample.sampler.kind`."""
