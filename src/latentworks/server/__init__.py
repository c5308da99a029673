"""The HTTP server: `latentworks serve`."""
