"""The Transformer of MAT and what can stand in its place."""
