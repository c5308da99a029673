"""Training and inference with Keras: batches, checkpoints, and encoding batch by batch."""
