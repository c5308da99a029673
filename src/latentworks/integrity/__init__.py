"""Damage to stored files: found by hash, quarantined, repaired and reported."""
