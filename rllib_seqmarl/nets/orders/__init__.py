"""Who decides when: orders that are given, drawn from scores, or found while agents decide."""
