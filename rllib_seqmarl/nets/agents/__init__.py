"""Networks of agents that act on their own observations."""
