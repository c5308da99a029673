"""Registered versions, their aliases, and the decisions about them."""
