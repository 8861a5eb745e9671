"""Playing with a trained policy."""
