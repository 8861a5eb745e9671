"""MAT's update and decoding beside the official code's, on the same rollout and weights, in turn.

    git clone https://github.com/PKU-MARL/Multi-Agent-Transformer FOLDER
    git -C FOLDER checkout be3ff49c8264d454c1fe2c41582aa2bfc98498c8
    python benchmarks/peers.py FOLDER [--rounds 5]

The official code is not part of this package: fetch it yourself, under its own licence. Nothing in
it is changed; of it ``MATTrainer``, ``TransformerPolicy`` and ``SharedReplayBuffer`` are called.

What is done: one rollout of SMAX is played by a new policy of this package. The official policy is
given the same weights (each of its parameters that has a counterpart here), its buffer the same
observations, actions, log-probs, values, returns and advantages. The log-probs of both are
compared. Then each takes its whole update of ``--epochs`` full-batch epochs on that rollout, and
decides for ``--envs`` environments, round after round in turn, on one thread; shortest times are
compared. Both are used as they are installed: here that includes `matmul: auto` and micro-batches.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from update_time import build

from rllib_seqmarl.interop.mat import convert_mat
from rllib_seqmarl.matmul import multiply_with

#: The official StarCraft script's, where it is not the default of this package.
OFFICIAL = SimpleNamespace(
    algorithm_name="mat", env_name="StarCraft2", lr=5e-4, opti_eps=1e-5, weight_decay=0, n_block=1,
    n_embd=64, n_head=1, encode_state=False, dec_actor=False, share_actor=False, clip_param=0.05,
    num_mini_batch=1, data_chunk_length=10, value_loss_coef=1.0, entropy_coef=0.01,
    max_grad_norm=10.0, huber_delta=10.0, use_recurrent_policy=False, hidden_size=64,
    use_naive_recurrent_policy=False, use_max_grad_norm=True, use_clipped_value_loss=True,
    use_huber_loss=True, use_valuenorm=True, use_value_active_masks=False, recurrent_N=1,
    use_policy_active_masks=True, gamma=0.99, gae_lambda=0.95, use_gae=True, use_popart=False,
    use_proper_time_limits=False,
)  # fmt: skip


class Peers:
    """Both codes with the same weights and the same rollout."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        sys.path.insert(0, arguments.folder)
        from mat.algorithms.mat.algorithm.transformer_policy import TransformerPolicy
        from mat.algorithms.mat.mat_trainer import MATTrainer
        from mat.utils.shared_buffer import SharedReplayBuffer

        self.algorithm = build(arguments, {})
        self.learner = self.algorithm.learner_group._learner
        (self.rollout,) = self.algorithm.env_runner.sample()
        self.policy = self.learner.core.policy
        columns = self.rollout.columns
        agents, width = columns["obs"].shape[2:]
        args = SimpleNamespace(**vars(OFFICIAL))
        args.ppo_epoch, args.episode_length = arguments.epochs, arguments.steps
        args.n_rollout_threads = arguments.envs
        spaces = Box(-1, 1, (width,)), Box(-1, 1, (1,)), Discrete(self.policy.action.size)
        self.theirs = TransformerPolicy(args, *spaces, agents)
        give_weights(self.policy, self.theirs.transformer)
        self.trainer = MATTrainer(args, self.theirs, agents)
        self.buffer = SharedReplayBuffer(args, agents, *spaces, "StarCraft2")
        with multiply_with("auto"):
            self.batch = self.learner.build_train_batch(self.rollout)
        shape = self.buffer.advantages.shape
        self.buffer.obs[:] = columns["obs"]
        self.buffer.available_actions[:] = columns["action_mask"]
        self.buffer.actions[:] = columns["actions"][..., None]
        self.buffer.action_log_probs[:] = columns["log_prob"]
        self.buffer.active_masks[:-1] = columns["alive"][: arguments.steps, ..., None]
        self.buffer.value_preds[:-1] = self.batch.old_values.view(shape).numpy()
        self.buffer.returns[:-1] = self.batch.returns.view(shape).numpy()
        self.buffer.advantages[:] = self.batch.advantages.view(shape).numpy()

    def difference(self) -> float:
        """The largest difference of log-probs, theirs and those that ours stored."""
        with torch.no_grad():
            log_probs, _, _ = self.theirs.transformer(
                self.buffer.share_obs[0], self.buffer.obs[0], self.buffer.actions[0],
                self.buffer.available_actions[0],
            )  # fmt: skip
        return float((log_probs - torch.from_numpy(self.buffer.action_log_probs[0])).abs().max())

    def our_update(self) -> None:
        """All gradient steps of an iteration."""
        with multiply_with(self.algorithm.config.matmul):
            self.learner.update_epochs(self.batch)

    def their_update(self) -> None:
        """The same, in the official trainer."""
        self.trainer.prep_training()
        self.trainer.train(self.buffer)

    def our_decisions(self) -> None:
        """Actions of all environments for one step."""
        obs, mask = (torch.from_numpy(self.rollout.columns[k][0]) for k in ("obs", "action_mask"))
        with multiply_with(self.algorithm.config.matmul):
            self.policy.act(obs, mask, deterministic=False)

    @torch.no_grad()
    def their_decisions(self) -> None:
        """The same, from the official policy."""
        buffer = self.buffer
        unused = buffer.rnn_states[0], buffer.rnn_states_critic[0], buffer.masks[0]
        self.theirs.get_actions(
            buffer.share_obs[0], buffer.obs[0], *unused, buffer.available_actions[0]
        )


def give_weights(policy: Any, official: Any) -> None:
    """Sets the official parameters whose counterparts are here to their values.

    Each official entry is marked with the position of its numbers, so that the conversion of this
    package tells where every number goes.
    """
    state: Mapping[str, Tensor] = official.state_dict()
    own = policy.state_dict()
    starts, total = {}, 0
    for name, value in state.items():
        starts[name] = total
        total += value.numel()
    marked = {
        name: torch.arange(starts[name], starts[name] + value.numel()).view(value.shape).double()
        for name, value in state.items()
    }
    numbers = torch.cat([value.double().flatten() for value in state.values()])
    for name, places in convert_mat(marked)[1].items():
        numbers[places.long().flatten()] = own[name].double().flatten()
    official.load_state_dict(
        {
            name: numbers[starts[name] : starts[name] + value.numel()].view(value.shape)
            for name, value in state.items()
        }
    )


def seconds(function: Callable[[], None], repeat: int) -> float:
    """Of one call, the mean of ``repeat``."""
    begin = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - begin) / repeat


def main() -> None:
    """Compares both in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="the official code at the commit named above")
    parser.add_argument("--map", default="3s5z")
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.algorithm, arguments.env = "MAT", "smac"
    arguments.env_config = f'{{"map_name": "{arguments.map}"}}'
    torch.set_num_threads(1)
    peers = Peers(arguments)
    print(f"the largest difference of log-probs, equal weights: {peers.difference():.1e}")
    comparisons = {
        "update": (peers.our_update, peers.their_update, 1),
        "decisions of one step": (peers.our_decisions, peers.their_decisions, 50),
    }
    for what, (ours, theirs, repeat) in comparisons.items():
        times = [(seconds(ours, repeat), seconds(theirs, repeat)) for _ in range(arguments.rounds)]
        mine, other = np.min(times, axis=0)
        print(
            f"{what}: here {mine:.4f} s, official {other:.4f} s: {other / mine:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
