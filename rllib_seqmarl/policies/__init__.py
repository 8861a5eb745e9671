"""Trained policies for whoever plays with them: NumPy in and out, without Ray."""
