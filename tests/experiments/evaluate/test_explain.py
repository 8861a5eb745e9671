"""What is said of an episode, and the picture of it."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fresh_policy import FreshPolicy
from PIL import Image

from rllib_seqmarl.algorithms.coma import counterfactual_advantage
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_policy
from rllib_seqmarl.experiments.evaluate.explain import EpisodeExplanation
from rllib_seqmarl.experiments.evaluate.watcher import Player
from rllib_seqmarl.learning.base.explanation import (
    NO_ATTENTION,
    NO_CRITIC,
    NO_ORDER,
    Explanation,
)
from rllib_seqmarl.nets.transformer.attention_weights import (
    CROSS_ATTENTION,
    ENCODER,
    SELF_ATTENTION,
)


class Watched(EpisodeExplanation):
    """Keeps the module that explains."""

    module: Any
    player: Player

    def on_episode_end(self, player: Player) -> None:
        super().on_episode_end(player)
        self.module, self.player = player.full_module(), player


STEPS, AGENTS = 6, 3
TASK = {"num_agents": AGENTS, "episode_length": STEPS}


def watched(small: Any, algorithm: str, has_critic: bool = True, **settings: Any) -> Watched:
    """The first episode of a policy that nobody has trained."""
    config = small(algorithm, env_config=TASK, **settings)
    watcher = Watched(Path("explained.png"))
    evaluate_policy(
        FreshPolicy(config, has_critic), episodes=2, explore=True, seed=3, watchers=[watcher]
    )
    return watcher


def titles(said: Explanation) -> list[str]:
    return [quantity.title.split(" (")[0] for quantity in said.quantities]


@pytest.mark.parametrize("algorithm", ["PMAT", "AOAD-MAT"])
def test_a_learned_order_is_that_which_was_played(small: Any, algorithm: str) -> None:
    watcher = watched(small, algorithm)
    said = watcher.explanation()
    assert said.order is not None
    assert said.order.shape == (STEPS, AGENTS)
    np.testing.assert_array_equal(said.order.numpy(), watcher.columns()["order"])
    assert len(np.unique(said.order.numpy(), axis=0)) > 1
    assert titles(said) == ["value of each agent"]
    assert not said.missing


def test_attention_is_that_of_the_layers_by_agent(small: Any) -> None:
    said = watched(small, "PMAT").explanation()
    encoder, own, cross = said.attention
    assert [one.title for one in said.attention] == [ENCODER, SELF_ATTENTION, CROSS_ATTENTION]
    assert encoder.weights.shape == (AGENTS, AGENTS)
    assert own.weights.shape == cross.weights.shape == (AGENTS, 1 + AGENTS)
    assert cross.columns == ("start", "0", "1", "2")
    for one in said.attention:
        torch.testing.assert_close(one.weights.sum(1), torch.ones(AGENTS))
    for agent in range(AGENTS):  # nobody reads the own action
        assert own.weights[agent, 1 + agent] == cross.weights[agent, 1 + agent] == 0
    assert (cross.weights[:, 0] > 0).all()
    by_slot = watched(small, "MAT").explanation().attention[2].weights
    # In the order of the slots, agent 0 reads no action and nobody reads that of agent 2.
    torch.testing.assert_close(by_slot[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert by_slot[1, 1] > 0
    assert (by_slot[:, 3] == 0).all()


def test_values_are_those_of_the_policy(small: Any) -> None:
    watcher = watched(small, "SrSv")
    said, module = watcher.explanation(), watcher.module
    assert said.missing == ["decision order: by slot in every step"]
    columns = {name: torch.from_numpy(column) for name, column in watcher.columns().items()}
    obs, actions = columns["obs"], columns["actions"]
    module.value_norm.update(torch.tensor(5.0), torch.tensor(29.0))  # mean 5, deviation 2
    with torch.no_grad():
        prepared = module.policy.prepare_value(obs, columns["action_mask"], actions)
        values = module.policy.values(obs, actions, None, prepared)
    (found,) = module.explain(columns).quantities
    torch.testing.assert_close(found.values, 5.0 + 2.0 * values)
    assert not torch.allclose(found.values[:, :1], found.values)


def test_credits_of_seca_add_up(small: Any) -> None:
    """The credits of a step are Q(u) - Q(pi) together, in any order (eq. 5)."""
    watcher = watched(small, "SeCA")
    said = watcher.explanation()
    assert said.missing == [NO_ATTENTION]
    assert said.order_title == "order of evaluation"
    assert said.order is not None
    assert len(np.unique(said.order.numpy(), axis=0)) == 1  # one order for the episode
    value, credit = said.quantities
    assert (value.values.shape, credit.values.shape) == ((STEPS, 1), (STEPS, AGENTS))
    module = watcher.module
    columns = {name: torch.from_numpy(column) for name, column in watcher.columns().items()}
    path = module.episode_path(columns)
    expected = module.critic(path.state[0, :-1], path.policy[0, :-1].unsqueeze(1))
    torch.testing.assert_close(credit.values.sum(1), (value.values - expected).squeeze(1).detach())
    fixed = watched(small, "SeCA", order="fixed").explanation()
    assert fixed.order is None
    assert "credits: the learner alone knows the order 'fixed'" in fixed.missing


def test_the_recurrent_policy_of_an_episode_is_that_which_played(small: Any) -> None:
    watcher = watched(small, "COMA")
    said, module, columns = watcher.explanation(), watcher.module, watcher.columns()
    assert titles(said) == ["action value Q of each agent", "counterfactual advantage"]
    path = module.episode_path({k: torch.from_numpy(v) for k, v in columns.items()})
    actions = torch.from_numpy(columns["actions"]).unsqueeze(-1)
    chosen = path.policy[0, :-1].gather(-1, actions).log()
    np.testing.assert_allclose(chosen.detach().numpy(), columns["log_prob"], atol=1e-5)
    # The mean of the advantage under the own policy is zero (eq. 4).
    q = torch.randn(4, 5)
    policy = torch.rand(4, 5).softmax(-1)
    every = torch.stack(
        [counterfactual_advantage(q, policy, torch.full((4,), a)) for a in range(5)], -1
    )
    torch.testing.assert_close((policy * every).sum(-1), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("algorithm", "settings", "title"),
    [
        ("MAPPO", {}, "value of the team"),
        ("MAPPO", {"recurrent": True}, "value of the team"),
        ("HAPPO", {"state": "observation"}, "value of each agent"),
        ("LICA", {}, "action value Q of the team"),
        ("RIIT", {}, "action value Q of the team"),
        ("SCC", {}, None),
    ],
)
def test_what_there_is_not_is_told(
    small: Any, algorithm: str, settings: dict[str, Any], title: str | None
) -> None:
    said = watched(small, algorithm, **settings).explanation()
    assert said.order is None
    assert not said.attention
    assert {NO_ORDER, NO_ATTENTION} <= set(said.missing)
    if title is not None:
        assert titles(said) == [title]
    for quantity in said.quantities:
        assert len(quantity.values) == STEPS
        assert torch.isfinite(quantity.values).all()


def test_continuous_actions_and_neighbours(small: Any) -> None:
    cars = {"num_agents": 4, "episode_length": STEPS, "neighbours": True, "num_neighbours": 2}
    config = small("MAT", env="dubins_car", env_config=cars, attention="neighbours")
    watcher = Watched(Path("explained.png"))
    policy = FreshPolicy(config)
    evaluate_policy(policy, episodes=2, seed=3, watchers=[watcher], scripted_policies=[])
    said = watcher.explanation()
    assert said.quantities[0].values.shape == (STEPS, 4)
    for one in said.attention:
        torch.testing.assert_close(one.weights.sum(1), torch.ones(4))


@pytest.mark.parametrize("algorithm", ["PMAT", "SeCA", "MAPPO"])
def test_a_file_without_critic_gives_what_it_can(small: Any, algorithm: str) -> None:
    watcher = watched(small, algorithm, has_critic=False)
    said = watcher.explanation()
    assert NO_CRITIC in said.missing
    assert not said.quantities
    assert (said.order is not None) == bool(said.attention) == (algorithm == "PMAT")


@pytest.mark.parametrize("network", ["mlp", "gnn", "encoder", "gru", "mat_dec"])
def test_other_networks(small: Any, network: str) -> None:
    said = watched(small, "MAT", network=network).explanation()
    kinds = [one.title for one in said.attention]
    known = {"encoder": [ENCODER], "gru": [], "mat_dec": []}
    assert kinds == known.get(network, [ENCODER, SELF_ATTENTION, CROSS_ATTENTION])
    assert (NO_ATTENTION in said.missing) == (not kinds)


def test_the_picture_shows_what_is_said(small: Any) -> None:
    heights = []
    for algorithm in ("PMAT", "MAPPO"):
        picture = Image.open(io.BytesIO(watched(small, algorithm).encode(algorithm)))
        assert picture.format == "PNG"
        heights.append(picture.size[1])
        assert len(picture.convert("RGB").getcolors(2**20) or ()) > 50
    assert heights[0] > 1.5 * heights[1]


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--explain: x\.gif must end with \.png"):
        EpisodeExplanation(Path("x.gif"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'rllib-seqmarl\[plot\]'"):
        EpisodeExplanation(Path("x.png"))
