"""The simulator SMAX."""
