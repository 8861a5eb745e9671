"""Actors with a central value."""
