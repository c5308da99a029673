"""A trained model as others use it: exported graphs and a sampler behind a few verbs."""
