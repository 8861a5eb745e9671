"""Who decides when."""
