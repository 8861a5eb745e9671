"""Rollouts: the columnar team runner behind RLlib's ``EnvRunner`` interface."""
