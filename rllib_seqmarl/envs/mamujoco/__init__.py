"""MuJoCo robots whose joints are divided among the agents."""
