"""Weights that are read off a pass are those with which the layers mix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.attention_weights import (
    CROSS_ATTENTION,
    ENCODER,
    SELF_ATTENTION,
    mixers_by_kind,
    recorded_weights,
    to_agents,
)
from rllib_seqmarl.nets.transformer.model import ActionSpec, Attention, Encoder


def test_rows_and_columns_go_to_the_agents_that_they_are_about() -> None:
    # Agents 2, 0, 1 decide. Position 1 reads agent 2's action, position 2 agent 0's.
    order = torch.tensor([[2, 0, 1]])
    weights = torch.tensor([[[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.5, 0.3, 0.2]]])
    expected = torch.tensor(
        [  # start, actions of agents 0, 1, 2
            [0.6, 0.0, 0.0, 0.4],
            [0.5, 0.2, 0.0, 0.3],
            [1.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(to_agents(weights, order)[0], expected)


def test_recorded_weights_are_the_softmax_of_the_products() -> None:
    torch.manual_seed(0)
    encoder = Encoder(obs_dim=5, width=8, blocks=1, heads=2)
    obs = torch.randn(3, 4, 5)
    mixers = mixers_by_kind(encoder)
    with torch.no_grad(), recorded_weights(mixers) as found:
        encoder(obs)
    assert list(found) == [ENCODER]
    (mixer,) = mixers[ENCODER]
    assert isinstance(mixer, Attention)
    query, key_value = mixer.split(mixer.project(encoder.norm(encoder.embed(obs))))
    heads = []
    for head in range(2):
        q, k = (x[..., 4 * head : 4 * head + 4] for x in (query, key_value))
        heads.append((torch.einsum("bld,bsd->bls", q, k) / math.sqrt(4)).softmax(-1))
    torch.testing.assert_close(found[ENCODER], sum(heads, torch.zeros(3, 4, 4)) / 2)
    before: list[Tensor] = list(found.values())
    encoder(obs)  # nothing is noted outside
    assert list(found.values()) == before
    assert not mixer._forward_pre_hooks


def test_neighbours_are_all_that_is_attended_to() -> None:
    torch.manual_seed(0)
    policy = SequentialPolicy(obs_dim=5, action=ActionSpec(3, True), embed_dim=8, num_blocks=2)
    neighbours = torch.tensor([[[1], [0], [-1], [2]]])  # [1, 4, 1]
    obs, actions = torch.randn(1, 4, 5), torch.zeros(1, 4, dtype=torch.long)
    found = policy.attention_weights(obs, actions, neighbours=neighbours)
    everywhere = policy.attention_weights(obs, actions)
    assert set(found) == set(everywhere) == {ENCODER, SELF_ATTENTION, CROSS_ATTENTION}
    for weights in (*found.values(), *everywhere.values()):
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4))
    seen = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]) > 0
    assert torch.equal(found[ENCODER][0] > 0, seen)
    assert (everywhere[ENCODER] > 0).all()
