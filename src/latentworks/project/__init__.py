"""A project with images of its user: params that fit them, and a folder of its own."""
