"""What holds for every algorithm of the registry."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import start_ray
from helpers.learners import learner_of, learner_processes, step

from rllib_seqmarl import registry
from rllib_seqmarl.algorithms.mat import MATLearner
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint
from rllib_seqmarl.learning.actor_critic.learner import ActorCriticLearner
from rllib_seqmarl.losses import probability_ratio
from rllib_seqmarl.nets.orders.given import GRANULARITIES
from rllib_seqmarl.registry import ORDERS, VALUES
from rllib_seqmarl.rollout.rollout_batch import ALIVE, OBS, ORDER_LOG_PROB, shard

ALGORITHMS = sorted(registry.ALGORITHMS)
#: Three steps per episode, so that rollouts of ten steps hold ends and beginnings.
DISCRETE = {"episode_length": 3}
CONTINUOUS = {"continuous": True, "episode_length": 3, "min_gap": 0.2}
CONTINUOUS_TOO = [name for name in ALGORITHMS if registry.config_class(name).continuous_actions]
#: And those whose data take another way under some settings: name -> algorithm and settings.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ALGORITHMS} | {
    "MAPPO-recurrent": ("MAPPO", {"recurrent": True, "chunk_length": 5}),
    "A2PO-shared": ("A2PO", {"share_parameters": True, "recurrent": True, "chunk_length": 5}),
}
#: One of every class of module.
MODULES = {
    registry.config_class(name)().get_default_rl_module_spec().module_class: variant
    for variant, (name, _) in VARIANTS.items()
}
DISCRETE_ONLY = [name for name in ALGORITHMS if name not in CONTINUOUS_TOO]
#: Those whose batches hold an advantage and an old log-prob of every agent.
WITH_ROLLED_OUT_ADVANTAGES = [
    name
    for name in ALGORITHMS
    if issubclass(
        registry.config_class(name)().get_default_learner_class(),
        ActorCriticLearner | MATLearner,
    )
]


def weights(algorithm: Any) -> dict[str, torch.Tensor]:
    """All of the learner's, the value function and its statistics included."""
    module = learner_of(algorithm).module["default_policy"]
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def gradients_of(learner: Any) -> dict[str, torch.Tensor]:
    """Of the last gradient step, by parameter; without those that it left alone."""
    named = learner.module["default_policy"].named_parameters()
    return {k: p.grad.clone() for k, p in named if p.grad is not None}


@pytest.mark.parametrize("name", DISCRETE_ONLY)
def test_continuous_actions_are_refused_where_there_is_no_use_for_them(
    name: str, small: Any
) -> None:
    with pytest.raises(UserError, match="choose among discrete actions") as caught:
        small(name, env_config=CONTINUOUS).build_algo()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variant", "env_config"),
    [pytest.param(name, DISCRETE, id=f"{name}-discrete") for name in VARIANTS]
    + [pytest.param(name, CONTINUOUS, id=f"{name}-continuous") for name in CONTINUOUS_TOO],
)
def test_trains_saves_resumes_and_evaluates(
    variant: str, env_config: dict[str, Any], small: Any, tmp_path: Path
) -> None:
    name, settings = VARIANTS[variant]
    algorithm = small(name, env_config=env_config, **settings).build_algo()
    first = algorithm.train()
    assert first["simulator"] == "distinct_actions"
    assert first["env_runners"]["num_env_steps_sampled_lifetime"] == 80
    assert np.isfinite(first["env_runners"]["episode_return_mean"])
    before = weights(algorithm)
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))

    algorithm.train()
    uninterrupted = weights(algorithm)
    assert any(not torch.equal(before[k], uninterrupted[k]) for k in before)

    resumed = type(algorithm).from_checkpoint(checkpoint)
    assert_same_weights(before, weights(resumed))
    second = resumed.train()
    assert second["training_iteration"] == 2
    assert second["env_runners"]["num_env_steps_sampled_lifetime"] == 160
    cpu_time = first["cpu_time_total_s"] + second["cpu_time_this_iter_s"]
    assert second["cpu_time_total_s"] == pytest.approx(cpu_time)
    assert_same_weights(uninterrupted, weights(resumed))
    for one in (algorithm, resumed):
        one.stop()

    result = evaluate_checkpoint(checkpoint, episodes=10, seed=3)
    assert result["algorithm"] == name
    assert result["simulator"] == "distinct_actions"
    assert len(result["per_episode"]["episode_return"]) == 10
    again = evaluate_checkpoint(checkpoint, episodes=10, seed=3)
    assert again["per_episode"] == result["per_episode"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_same_seed_same_numbers(name: str, small: Any) -> None:
    runs = []
    for _ in range(2):
        algorithm = small(name, env_config=DISCRETE, minibatch_size=30).build_algo()
        for _ in range(2):
            algorithm.train()
        runs.append(weights(algorithm))
        algorithm.stop()
    assert_same_weights(*runs)


@pytest.mark.parametrize("env_config", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize(("order", "value"), itertools.product(ORDERS, VALUES))
def test_any_order_with_any_value(
    order: str, value: str, env_config: dict[str, Any], small: Any
) -> None:
    """All pairs train, and no probability has moved before the first gradient step."""
    given = "SrSv" if value.startswith("sequential") else "MAT"
    name = {"plackett_luce": "PMAT", "next_agent": "AOAD-MAT"}.get(order, given)
    config = small(name, env_config=env_config, order=order, value=value, lr=1e-2)
    ratio_is_one_before_the_first_step(config)


@pytest.mark.parametrize(
    "settings",
    [
        *({"order": "random", "order_granularity": granularity} for granularity in GRANULARITIES),
        {"order": "plackett_luce", "ranking_layers": 3, "share_hidden": True},
        {"order": "next_agent", "next_agent_head": "pointer", "first_agent": 2},
        {"order": "next_agent", "next_agent_loss": "sum", "next_agent_advantage": "mean"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_any_kind_of_an_order(settings: dict[str, Any], small: Any) -> None:
    """With the value that reads actions, so that bootstraps need an order too."""
    name = {"plackett_luce": "PMAT", "next_agent": "AOAD-MAT"}.get(settings["order"], "SrSv")
    config = small(name, env_config=DISCRETE, lr=1e-2, value="sequential", **settings)
    ratio_is_one_before_the_first_step(config)


def ratio_is_one_before_the_first_step(config: Any) -> None:
    algorithm = config.build_algo()
    algorithm.train()  # away from the initialisation, where all probabilities are alike
    block = algorithm.env_runner.sample()[0]
    learner = learner_of(algorithm)
    rows = learner.build_train_batch(block)
    forward = learner.module["default_policy"].forward_train(rows)
    ratio = probability_ratio(forward.log_prob, rows.log_prob, "per_dim")
    assert rows.log_prob.std() > 1e-3
    assert (ratio - 1.0).abs().max() < 1e-5
    assert (rows.order_log_prob is not None) == (config.order in ("plackett_luce", "next_agent"))
    if rows.order_log_prob is not None:
        change = (forward.order.log_prob - rows.order_log_prob).abs()
        assert (rows.order_log_prob < 0).any()
        assert change.max() < 1e-5
    algorithm.train()
    algorithm.stop()


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_give_the_gradient_of_their_minibatch(variant: str, small: Any) -> None:
    name, settings = VARIANTS[variant]
    gradients = []
    for micro_batch_size in (None, 30):
        settings = settings | {"micro_batch_size": micro_batch_size, "num_epochs": 1}
        algorithm = small(name, env_config=DISCRETE, **settings).build_algo()
        algorithm.train()
        gradients.append(gradients_of(learner_of(algorithm)))
        algorithm.stop()
    for name_, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name_], atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("name", WITH_ROLLED_OUT_ADVANTAGES)
def test_garbage_in_slots_of_dead_agents_changes_nothing(name: str, small: Any) -> None:
    """Their actions, rewards and log-probs count nowhere in the loss or its gradient."""
    settings = {"entropy_coeff": 0.0, "num_epochs": 1, "use_value_active_mask": True}
    algorithm = small(name, env_config=DISCRETE, **settings).build_algo()
    block = algorithm.env_runner.sample()[0]
    learner = learner_of(algorithm)
    generator = np.random.default_rng(0)
    block.columns[ALIVE] = generator.random(block.columns[ALIVE].shape) > 0.3
    rows = learner.build_train_batch(block)
    dead = ~rows.alive
    gradients = []
    for garbage in (False, True):
        batch = rows.replace(**{name: column.clone() for name, column in rows.columns()})
        batch = learner.prepare_minibatch(batch)
        if garbage:
            for column in ("advantages", "targets", "old_values"):
                getattr(batch, column)[dead] = 1e6
            batch.log_prob[dead] = -50.0
            if ORDER_LOG_PROB in vars(batch) and np.ndim(batch.order_log_prob) == 2:
                batch.order_log_prob[dead] = -1000.0
        learner.module["default_policy"].zero_grad()
        forward = learner.module["default_policy"].forward_train(batch)
        loss = learner.compute_loss_for_module(
            module_id="default_policy", config=learner.config, batch=batch, fwd_out=forward
        )
        loss.backward()
        gradients.append([loss.detach(), *gradients_of(learner).values()])
    for clean, corrupted in zip(*gradients, strict=True):
        torch.testing.assert_close(clean, corrupted, atol=1e-5, rtol=1e-4)
    algorithm.stop()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_module_loads_alone_from_a_checkpoint(name: str, small: Any, tmp_path: Path) -> None:
    from ray.rllib.core.rl_module import RLModule

    from rllib_seqmarl.experiments.evaluate.evaluation import MODULE_PATH

    algorithm = small(name, env_config=DISCRETE).build_algo()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    module = RLModule.from_checkpoint(str(tmp_path / "checkpoint" / MODULE_PATH))
    assert_same_weights(weights(algorithm), dict(module.state_dict()))
    obs = {k: torch.as_tensor(v) for k, v in algorithm.env_runner.env.reset(seed=0)[0].items()}
    actions = module.forward_inference({"obs": obs})["actions"]
    assert actions.shape == obs[OBS].shape[:2]
    algorithm.stop()


@pytest.mark.parametrize("variant", [*MODULES.values(), "MAPPO-recurrent"])
def test_remote_runners_and_evaluation_runners(variant: str, small: Any) -> None:
    name, settings = VARIANTS[variant]
    config = small(
        name,
        env_config=DISCRETE,
        **settings,
        num_env_runners=1,
        evaluation_interval=1,
        evaluation_num_env_runners=1,
        evaluation_duration=9,
    )
    algorithm = config.build_algo()
    for _ in range(2):
        result = algorithm.train()
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 2 * 80
    assert result["evaluation"]["env_runners"]["num_episodes"] == 9
    newest = result["learners"]["default_policy"]["weights_seq_no"]
    assert newest == 2
    algorithm.stop()


def test_an_evaluation_is_the_mean_over_its_episodes(small: Any) -> None:
    """Two runners with five and four of them: not the mean of two means."""
    config = small(
        "MAT",
        env_config={"episode_length": 4, "num_agents": 2},
        evaluation_interval=1,
        evaluation_num_env_runners=2,
        evaluation_duration=9,
        evaluation_config={"explore": True},
    )
    algorithm = config.build_algo()
    seen = []
    for _ in range(3):
        result = algorithm.train()["evaluation"]["env_runners"]
        assert result["num_episodes"] == 9
        total = result["episode_return_mean"] * 9
        assert total == pytest.approx(round(total), abs=1e-4)
        seen.append(total)
    assert len(set(seen)) > 1  # every evaluation plays other episodes
    algorithm.stop()


@pytest.fixture(scope="module")
def two_learners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    start_ray()
    with learner_processes(2, str(tmp_path_factory.mktemp("ranks") / "file")) as steps:
        yield steps


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_learners_give_the_gradient_of_one(variant: str, small: Any, two_learners: Any) -> None:
    """Each learns from half of the envs; the gradients and statistics are of all of them."""
    name, settings = VARIANTS[variant]
    # With episodes of one step nothing is bootstrapped, so that nothing is sampled for it.
    env_config = DISCRETE if "recurrent" in settings else {"episode_length": 1}
    algorithm = small(name, env_config=env_config, **settings, num_epochs=1).build_algo()
    rollouts = algorithm.env_runner.sample()
    halves = two_learners(algorithm, shard(rollouts, 2))
    one, one_state, one_loss = step(learner_of(algorithm), rollouts)
    (first, two_state, first_loss), (second, _, second_loss) = halves
    assert one.keys() == first.keys()
    for parameter, gradient in one.items():
        scale = float(gradient.abs().max())
        assert torch.equal(first[parameter], second[parameter])
        np.testing.assert_allclose(first[parameter], gradient, atol=1e-4 * scale + 1e-8)
    for statistic in {"value_norm.mean", "value_norm.mean_square"} & one_state.keys():
        np.testing.assert_allclose(two_state[statistic], one_state[statistic], rtol=1e-4)
    # Each learner reports its share, and RLlib the mean of the shares.
    assert (first_loss + second_loss) / 2 == pytest.approx(one_loss, rel=1e-4)
    algorithm.stop()


def test_two_learners_agree_whatever_they_draw(small: Any, two_learners: Any) -> None:
    config = small("SrSv", value_loss_agents=1, micro_batch_size=15)
    algorithm = config.build_algo()
    (_, first, _), (_, second, _) = two_learners(algorithm, shard(algorithm.env_runner.sample(), 2))
    before = learner_of(algorithm).module["default_policy"].state_dict()
    assert any(not torch.equal(before[name], first[name]) for name in before)
    assert_same_weights(first, second)
    algorithm.stop()


def test_learners_with_unequal_shares_take_equally_many_steps(
    small: Any, two_learners: Any
) -> None:
    """They wait for each other at every step: one more of one of them would be for ever."""
    config = small("MAT", env_config=DISCRETE, num_envs_per_env_runner=5, minibatch_size=20)
    algorithm = config.build_algo()
    shares = shard(algorithm.env_runner.sample(), 2)
    assert [[rollout.num_env_steps for rollout in share] for share in shares] == [[20], [30]]
    (_, first, _), (_, second, _) = two_learners(algorithm, shares)
    assert_same_weights(first, second)
    algorithm.stop()
