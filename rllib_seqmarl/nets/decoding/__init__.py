"""Decoding the actions of N agents, each given those before it."""
