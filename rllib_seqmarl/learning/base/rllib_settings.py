"""RLlib's settings that mean nothing to a team's runner and learner, and their public names."""

from __future__ import annotations

#: Keys that Ray itself puts into a config dict, beside those that begin with "__".
RAY_KEYS = {"class", "_enable_new_api_stack", "multiagent"}

_NEW_STACK = "only RLlib's new API stack is supported; leave it at true"
ONE_TEAM = "the team is one agent with one policy; leave multi_agent() out"
_CONNECTORS = "blocks of columns pass through no connectors; change the environment instead"
NETWORK = "the network has settings of its own, e.g. embed_dim and num_blocks"
_OFFLINE = "learning is from the runners only; use on_sample_end to keep blocks"

#: RLlib's settings that a columnar runner or learner does not look at -> what to do instead.
WITHOUT_MEANING: dict[str, str] = {
    "enable_rl_module_and_learner": _NEW_STACK,
    "enable_env_runner_and_connector_v2": _NEW_STACK,
    "framework_str": "everything here is torch",
    "observation_filter": "scale observations in the environment",
    "normalize_actions": "continuous actions lie in [-1, 1]; the environment scales them",
    "clip_actions": "continuous actions lie in [-1, 1]; the environment scales them",
    "clip_rewards": "clip rewards in the environment",
    "compress_observations": "blocks are sent as they are; leave it out",
    "remote_worker_envs": "worlds are stepped as one; use num_env_runners",
    "use_env_runner_state_server": "leave it out",
    "shuffle_batch_per_epoch": "every epoch is shuffled; leave it out",
    "torch_skip_nan_gradients": "use grad_clip and a smaller lr",
    "num_aggregator_actors_per_learner": "blocks go straight to the learners; use num_learners",
    "num_gpus": "use num_learners and num_gpus_per_learner",
    "model": NETWORK,
    "_model_config": NETWORK,
    "optimizer": "it is Adam; use lr, adam_epsilon and grad_clip",
    "exploration_config": "use entropy_coeff, and explore in evaluation_config",
    "input_": _OFFLINE,
    "output": _OFFLINE,
    "policy_mapping_fn": ONE_TEAM,
    "policies_to_train": ONE_TEAM,
    "count_steps_by": "steps are those of the environment; leave it out",
    "_env_to_module_connector": _CONNECTORS,
    "_module_to_env_connector": _CONNECTORS,
    "_learner_connector": _CONNECTORS,
}
