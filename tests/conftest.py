"""Fixtures that many tests share."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rllib_seqmarl import _ray_compat

# Before torch, jax or ray are imported by any test: one thread each, and no GPU.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Nor a worker for each core before there is work for it, in any Ray that a test starts.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# What `rllib train` notes in the user's home.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state-home-")


TESTS = Path(__file__).parent

#: Files of minutes. They come first, so that no process is left alone with one at the end; pytest
#: takes files in this order because of ``--no-loadscope-reorder``.
LONG = (
    "test_all_algorithms.py",
    "test_benchmarks.py",
    "test_cli_runs.py",
    "test_tuned_examples.py",
    "test_cluster.py",
    "test_extras.py",
    "test_faults_resume.py",
    "test_search_runs.py",
    "test_parallel_trials.py",
    "test_faults.py",
)


#: Files and folders of the fast lane, ``pytest -m fast``, and single tests. Others are marked where
#: they stand.
FAST = (
    "envs/core/test_env_checker.py",
    "envs/core/test_team_env.py",
    "envs/toy",
    "experiments/compare",
    "experiments/spec",
    "learning/base/test_config.py",
    "learning/base/test_learner.py",
    "learning/base/test_numbers.py",
    "nets",
    "policies/test_policy.py",
    "test_losses.py",
    "test_registry.py",
    "test_returns.py",
    "test_settings.py",
    "test_structure.py",
)
#: Among them those that compile, or start Ray in other processes.
SLOW_TESTS = (
    "test_names_survive_a_second_connection",
    "test_tuner_finds_an_algorithm_by_its_name",
)
FAST_TESTS = (
    "test_help_is_quick_and_imports_neither_torch_nor_ray",
    "test_trains_resumes_evaluates_and_is_shared",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
    fast = {TESTS / name for name in FAST}
    for item in items:
        name = getattr(item, "originalname", item.name)
        slow = name in SLOW_TESTS or "football" in item.name
        in_fast = not slow and not fast.isdisjoint((item.path, *item.path.parents))
        if in_fast or name in FAST_TESTS:
            item.add_marker(pytest.mark.fast)


@pytest.fixture
def ray_session() -> None:
    """A small local cluster of this test process; it lives on for the next test."""
    start_ray()


def start_ray() -> None:
    """What `ray_session` does, for fixtures that live longer than a test."""
    import ray

    if not ray.is_initialized():
        _ray_compat.start_local(
            num_cpus=4, log_to_driver=False, logging_level=logging.ERROR, address="local"
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
        sizes: dict[str, Any] = {
            "num_envs_per_env_runner": 8,
            "rollout_fragment_length": 10,
            "num_epochs": 2,
            "seed": 7,
            "log_sys_usage": False,  # whose thread takes 0.3 seconds to end
        }
        widths = ("embed_dim", "hidden_dim", "hypernet_dim", "critic_dim")
        sizes |= {name: 16 for name in widths if hasattr(config, name)}
        if hasattr(config, "hidden_sizes"):
            sizes["hidden_sizes"] = [16, 16]
        if hasattr(config, "state"):  # a central critic
            sizes["state"] = "observations"
        config.update_from_dict({**sizes, **settings})
        return config

    return build


@pytest.fixture
def starcraft2_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A computer on which StarCraft II seems to be installed; returns the game's folder.

    Everything that is looked for is there and empty, so that a config can be checked to its end.
    """
    from rllib_seqmarl.envs.starcraft2 import config as starcraft2_config
    from rllib_seqmarl.envs.starcraft2 import maps as starcraft2_maps

    packages, game = tmp_path / "packages", tmp_path / "StarCraftII"
    for package in ("pysc2", "s2clientprotocol"):
        (packages / package).mkdir(parents=True)
        (packages / package / "__init__.py").touch()
    for package in ("smac", "smacv2"):
        (packages / package / "env" / "starcraft2").mkdir(parents=True)
        (packages / package / "__init__.py").touch()
        (packages / package / "env" / "starcraft2" / "starcraft2.py").touch()
    for build in ("Base69232", "Base75689"):
        program = game / "Versions" / build / "SC2_x64"
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    (game / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for scenario in starcraft2_maps.MAPS.values():
        (game / "Maps" / "SMAC_Maps" / f"{scenario.file_name}.SC2Map").touch()
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("SC2PATH", str(game))
    # Ray has loaded protobuf in this process, and not the pure Python one.
    monkeypatch.setattr(starcraft2_config, "_reads_old_messages", lambda: True)
    return game


#: Where this is set, a missing simulator fails the tests that it would skip elsewhere.
REQUIRE_ALL = "SEQMARL_REQUIRE_ALL_ENVIRONMENTS"


@pytest.fixture(scope="session")
def where_installed() -> Callable[[], AbstractContextManager[None]]:
    """``with where_installed(): ...`` skips the test if that needs a simulator that is missing."""
    from rllib_seqmarl.errors import UserError

    @contextmanager
    def skip_or_fail() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if "not installed" not in str(error) or os.environ.get(REQUIRE_ALL):
                raise
            pytest.skip(str(error))

    return skip_or_fail
