"""Fixtures that many tests share."""

from __future__ import annotations

import os
from typing import Any

import pytest

# Before torch, jax or ray are imported by any test: one thread each, and no GPU.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture
def ray_session() -> None:
    """A small local cluster of this test process; it lives on for the next test."""
    import ray

    if not ray.is_initialized():
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=200 * 1024**2,
            configure_logging=False,
        )


@pytest.fixture
def no_ray() -> None:
    """For tests of what begins a cluster of its own in this process."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


@pytest.fixture
def small(ray_session: None) -> Any:
    """``small("SrSv", **settings)``: the config of an algorithm, sized for a second per step.

    Settings named ``env_config`` and ``env`` choose the environment.
    """
    from rllib_seqmarl import registry

    def build(
        algorithm: str,
        env: str = "distinct_actions",
        env_config: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        config = registry.config_class(algorithm)()
        config.environment(env, env_config=env_config or {})
        config.update_from_dict(
            {
                "num_envs_per_env_runner": 8,
                "rollout_fragment_length": 10,
                "num_epochs": 2,
                "embed_dim": 16,
                "seed": 7,
                **settings,
            }
        )
        return config

    return build
