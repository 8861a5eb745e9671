"""Checkpoints and results on disk."""
