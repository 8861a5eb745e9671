"""``rllib import-mat``: a checkpoint of this package from weights of the official MAT code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.train import ray_session
from rllib_seqmarl.files import check_writable, user_path

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rllib_seqmarl.nets.sequential_policy import SequentialPolicy


def import_mat(
    source: str, out: str, *, env: str, env_config: Mapping[str, Any], heads: int
) -> int:
    """Writes a checkpoint with which `evaluate` plays and from which `train --restore` goes on.

    Args:
        source: file with the official ``state_dict``, written by `torch.save`.
        out: folder of the new checkpoint; must not exist.
        env: the environment that the model plays.
        env_config: its settings.
        heads: attention heads, which the weights do not tell.

    Returns:
        The exit status.

    Raises:
        UserError: the file is not an official MAT, or it does not fit the environment.
    """
    user_path(source, "FILE")
    target = user_path(out, "OUT").absolute()
    if target.exists():
        raise UserError(f"{target} exists already: give the name of a new folder.")
    check_writable(target, "OUT")
    ray_session.prepare(ray_session.RunOptions())
    from rllib_seqmarl import registry
    from rllib_seqmarl.algorithms.mat import MATConfig
    from rllib_seqmarl.interop.mat import load_mat
    from rllib_seqmarl.nets.transformer.model import Decoder, Encoder

    policy = load_mat(source, heads=heads)
    encoder, decoder = cast(Encoder, policy.encoder), cast(Decoder, policy.decoder)
    config = MATConfig().environment(env, env_config=dict(env_config))
    config.training(
        embed_dim=encoder.norm.normalized_shape[0],
        num_blocks=len(decoder.blocks),
        num_heads=heads,
    )
    ray_session.set_log_levels(verbose=False)
    config.validate()
    with ray_session.connection(ray_session.RunOptions()):
        registry.register()
        algorithm = config.build_algo()
        try:
            _load(algorithm, policy)
            algorithm.save_to_path(str(target))
        finally:
            algorithm.stop()
    print(f"Written: {target}\nPlay with it:\n  rllib evaluate {target}")
    return 0


def _load(algorithm: Algorithm, policy: SequentialPolicy) -> None:
    """The official policy's weights into the learner, and from there to the runner."""
    state = algorithm.learner_group.get_state(components="learner/rl_module")
    module = state["learner"]["rl_module"]["default_policy"]
    for name, value in policy.state_dict().items():
        ours = module.get(f"policy.{name}")
        if ours is None or ours.shape != value.shape:
            raise UserError(
                f"the official model does not fit the environment: {name!r} has shape "
                f"{list(value.shape)}, the environment needs "
                f"{'none' if ours is None else list(ours.shape)} (observation and action sizes "
                "must be those that the model was trained with)."
            )
        module[f"policy.{name}"] = value.numpy()
    state["learner"].pop("weights_seq_no", None)  # without a number, weights are always taken
    algorithm.learner_group.set_state(state)
    algorithm.env_runner_group.sync_weights(
        from_worker_or_learner_group=algorithm.learner_group, inference_only=True
    )
