"""Encoders of observations that are more than a vector, in front of a network."""
