"""A project with images of its user: params that fit them, written into params.yaml."""
