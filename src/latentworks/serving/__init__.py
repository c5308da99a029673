"""Export, packaging and checks of a servable: the folder that a server loads."""
