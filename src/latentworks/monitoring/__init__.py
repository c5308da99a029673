"""Monitoring of incoming images: changes at their source, and drift from the champion's data."""
