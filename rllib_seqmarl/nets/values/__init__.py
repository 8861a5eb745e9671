"""What the baseline of each agent sees."""
