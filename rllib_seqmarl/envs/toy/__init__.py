"""Toys that are solved in minutes."""
