"""Model families in Keras: one module for each `model.kind`."""
