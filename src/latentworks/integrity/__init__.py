"""Damage found by hash, quarantined and repaired."""
