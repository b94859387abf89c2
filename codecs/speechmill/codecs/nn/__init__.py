"""Layers that more than one codec is made of."""
