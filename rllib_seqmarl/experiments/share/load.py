"""`load_policy`: a trained policy from a checkpoint or from a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.files import user_path
from rllib_seqmarl.names import SHARED, tell_once
from rllib_seqmarl.policies.file import StoredPolicy
from rllib_seqmarl.policies.policy import Policy

if TYPE_CHECKING:
    import torch


def load_policy(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    num_agents: int | None = None,
    trust_imports: bool = False,
) -> Policy:
    """A trained policy, ready to play.

    From a ``.safetensors`` file neither Ray nor gymnasium is imported, and nothing is unpickled. A
    checkpoint is made of pickles, which can run code: load only what you trust.

    Args:
        path: a file of ``rllib export``, a checkpoint's folder, or that of a trial (its best
            checkpoint if the training scored them, else its last one) or of an experiment with
            one trial.
        device: where the policy computes, such as "cuda".
        num_agents: N, where the team is of another size than in training and the network does not
            depend on it; None: that of the training.
        trust_imports: whether a file may name parts of the network, or the environment, by import
            paths: code that is imported and run. A file that names an environment so is loaded
            without, but its ``env`` and ``env_config`` cannot be read.

    Raises:
        UserError: no such policy, a damaged one, or one that cannot be built here.
    """
    stored, trusted = stored_policy(path, trust_imports=trust_imports)
    return stored.policy(device=device, num_agents=num_agents, trust_imports=trusted)


def stored_policy(
    path: str | os.PathLike[str], *, trust_imports: bool = False
) -> tuple[StoredPolicy, bool]:
    """What a file or a checkpoint holds, and whether what it names may be imported.

    Arguments and errors as of `load_policy`.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"load_policy: path must be text or a Path, got {path!r}.")
    given = os.fspath(path)
    if given.endswith(SHARED):
        stored = StoredPolicy.read(user_path(given))
        if stored.metadata["format"] == 1:
            from rllib_seqmarl.experiments.share.policy_file import completed

            stored = completed(stored, trust_imports=trust_imports)
        return stored, trust_imports
    from rllib_seqmarl.experiments.checkpoints import find as checkpoints

    checkpoint = checkpoints.find(given, tell_once)
    checkpoints.check(checkpoint)
    from rllib_seqmarl.experiments.share.policy_file import from_checkpoint

    # Whoever unpickles the checkpoint trusts what it names, too.
    return from_checkpoint(checkpoint), True
