"""``rllib compare`` and ``rllib plot``: learning curves and statistics of runs."""
