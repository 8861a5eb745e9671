"""Plays one episode with a trained policy, in the environment of its training: play.py PATH."""

import sys

from rllib_seqmarl import load_policy, make_environment

policy = load_policy(sys.argv[1])
env = make_environment(policy.env, 1, policy.env_config)
observations, _ = env.reset(seed=0)
ended = False
while not ended:
    decision = policy.act(observations)
    observations, _, terminated, truncated, infos = env.step(decision.actions)
    ended = bool(terminated[0] or truncated[0])
print({name: float(values[0]) for name, values in infos["final_info"].items()})
