"""Keras at work: batches, training with a checkpoint, inference batch by batch."""
