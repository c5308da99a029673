"""What is trained. One file for each `model.kind`, in Keras alone."""
