"""Experiments of the ``rllib`` command: their files, their runs with Ray Tune, their reports."""
