"""Weights of other code."""
