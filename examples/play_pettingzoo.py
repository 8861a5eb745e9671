"""Plays mpe2's simple_spread itself, with a policy that was trained in it."""

import sys

import numpy as np
from mpe2 import simple_spread_v3

from rllib_seqmarl import load_policy

policy, game, total = load_policy(sys.argv[1]), simple_spread_v3.parallel_env(), 0.0
seen, _ = game.reset(seed=0)
while game.agents:
    obs = np.stack([seen[agent] for agent in game.agents])
    obs = np.concatenate([obs, np.eye(len(obs))], axis=1)  # `agent_id: true`: who an agent is
    mask = np.ones((len(obs), 5), bool)  # all five actions are available
    actions = policy.act({"obs": obs, "action_mask": mask}).actions
    seen, rewards, *_ = game.step(dict(zip(game.agents, actions.tolist(), strict=True)))
    total += sum(rewards.values())
print(f"return {total:.2f}")
