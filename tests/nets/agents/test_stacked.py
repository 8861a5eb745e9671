"""Networks of agents: stacked passes against one network per agent, the GRU against torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.agents.stacked import (
    AgentGRU,
    AgentNetwork,
    RecurrentState,
    StackedParameter,
)

B, T, N, D, OUTPUTS, H = 3, 5, 4, 6, 2, 8
SETTINGS: dict[str, Any] = {
    "hidden_sizes": [7, H],
    "activation": "tanh",
    "feature_norm": True,
    "output_gain": 1.0,
}


def network(num_param_sets: int = N, recurrent: bool = False, **settings: Any) -> AgentNetwork:
    """With biases and scales that are not those of the initialisation."""
    torch.manual_seed(0)
    net = AgentNetwork(
        D, OUTPUTS, num_param_sets=num_param_sets, recurrent=recurrent, **SETTINGS | settings
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


def alone(net: AgentNetwork, agent: int) -> AgentNetwork:
    """One agent's network: a copy in which all share the parameters of ``agent``."""
    one = copy.deepcopy(net)
    one.num_param_sets = 1
    for module in one.modules():
        if isinstance(module, StackedParameter):
            module.members = nn.ParameterList([module.members[agent]])
    return one


def inputs(recurrent: bool) -> tuple[Tensor, RecurrentState | None]:
    torch.manual_seed(1)
    if not recurrent:
        return torch.randn(B, N, D), None
    is_first = torch.rand(B, T) < 0.3
    is_first[0] = torch.tensor([False, False, True, True, False])
    return torch.randn(B, T, N, D), RecurrentState(torch.randn(B, N, H), is_first)


def of(state: RecurrentState | None, agents: list[int]) -> RecurrentState | None:
    return None if state is None else state._replace(hidden=state.hidden[:, agents])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("agents", [None, [2], [3, 0]], ids=str)
def test_a_stacked_pass_is_a_pass_of_every_agent(agents: list[int] | None, recurrent: bool) -> None:
    """Values, states, and the gradients of every parameter."""
    net = network(recurrent=recurrent)
    x, state = inputs(recurrent)
    chosen = list(range(N)) if agents is None else agents
    out = net(x[..., chosen, :], of(state, chosen), agents)
    weight = torch.randn(out.values.shape)
    (out.values * weight).sum().backward()
    for place, agent in enumerate(chosen):
        one = alone(net, agent)
        own = one(x[..., [agent], :], of(state, [agent]))
        torch.testing.assert_close(out.values[..., [place], :], own.values)
        if recurrent:
            assert out.hidden is not None
            torch.testing.assert_close(out.hidden[..., [place], :], own.hidden)
        (own.values * weight[..., [place], :]).sum().backward()
        together = [module.members[agent] for module in net.modules() if _is_per_agent(module)]
        apart = [module.members[0] for module in one.modules() if _is_per_agent(module)]
        for stacked, single in zip(together, apart, strict=True):
            torch.testing.assert_close(stacked.grad, single.grad, atol=1e-5, rtol=1e-4)
    for module in net.modules():
        if _is_per_agent(module):
            idle = [p for agent, p in enumerate(module.members) if agent not in chosen]
            assert all(parameter.grad is None for parameter in idle)


def _is_per_agent(module: nn.Module) -> bool:
    return isinstance(module, StackedParameter)


@pytest.mark.parametrize("recurrent", [False, True])
def test_shared_parameters_are_the_same_for_every_agent(recurrent: bool) -> None:
    net = network(num_param_sets=1, recurrent=recurrent)
    x, state = inputs(recurrent)
    out = net(x, state)
    assert out.values.shape == (*x.shape[:-1], OUTPUTS)
    for agent in range(N):
        own = net(x[..., [agent], :], of(state, [agent]))
        torch.testing.assert_close(out.values[..., [agent], :], own.values)


def test_a_feed_forward_network_is_that_of_its_layers() -> None:
    """LayerNorm, (Linear, activation, LayerNorm) for every width, Linear."""
    net = network(num_param_sets=1)

    def normalised(x: Tensor, norm: Any) -> Tensor:
        scale, shift = norm.weight.members[0], norm.bias.members[0]
        return nn.functional.layer_norm(x, x.shape[-1:], scale, shift)

    x, _ = inputs(False)
    y = normalised(x, net.feature_norm)
    for layer, norm in zip(net.layers, net.norms, strict=True):
        y = normalised(torch.tanh(y @ layer.weight.members[0] + layer.bias.members[0]), norm)
    y = y @ net.head.weight.members[0] + net.head.bias.members[0]
    torch.testing.assert_close(net(net.prepare(x)).values, y)


def test_gru_is_torchs_cell_that_forgets_at_every_first_step() -> None:
    torch.manual_seed(0)
    gru, cell = AgentGRU(1, H), nn.GRUCell(H, H)
    with torch.no_grad():
        gru.input.weight.members[0].copy_(cell.weight_ih.t())
        gru.input.bias.members[0].copy_(cell.bias_ih)
        gru.state.weight.members[0].copy_(cell.weight_hh.t())
        gru.state.bias.members[0].copy_(cell.bias_hh)
    x, hidden = torch.randn(T, B, H), torch.randn(B, H)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[0, 1] = is_first[3, 2] = is_first[3, 1] = True
    states = gru(x.unsqueeze(0), hidden.unsqueeze(0), is_first, None)[0]
    weight = torch.randn(T, B, H)
    (states * weight).sum().backward()
    total = torch.zeros(())
    for t in range(T):
        hidden = cell(x[t], torch.where(is_first[t].unsqueeze(-1), 0.0, hidden))
        torch.testing.assert_close(states[t], hidden)
        total = total + (hidden * weight[t]).sum()
    total.backward()
    torch.testing.assert_close(gru.state.weight.members[0].grad, cell.weight_hh.grad.t())
    torch.testing.assert_close(gru.input.weight.members[0].grad, cell.weight_ih.grad.t())
    torch.testing.assert_close(gru.state.bias.members[0].grad, cell.bias_hh.grad)


@pytest.mark.parametrize("members", [1, N])
def test_nothing_passes_from_one_episode_into_the_next(members: int) -> None:
    """Neither values, were they infinite, nor gradients."""
    net = network(members, recurrent=True)
    x, _ = inputs(True)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 2] = True
    hidden = torch.randn(B, N, H)
    hidden[0], is_first[0, 0] = torch.inf, True
    x.requires_grad_()
    values = net(x, RecurrentState(hidden, is_first)).values
    assert values[0].isfinite().all()
    fresh = torch.zeros(B, N, H)
    alike = net(x[:, 2:], RecurrentState(fresh, is_first[:, 2:])).values
    torch.testing.assert_close(values[:, 2:], alike)
    (gradient,) = torch.autograd.grad(values[:, 2:].sum(), x)
    assert (gradient[:, :2] == 0).all()
    assert (gradient[:, 2:] != 0).any()


def test_a_recurrent_network_needs_a_memory() -> None:
    with pytest.raises(AssertionError):
        network(recurrent=True)(torch.randn(B, T, N, D))


def test_stacked_parameters_follow_their_members() -> None:
    """Whatever is kept between passes without gradients must not outlive a change."""
    net, twin = network(), network()
    x, _ = inputs(False)
    with torch.no_grad():
        before = net(x).values
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(x).values.square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = net(x).values
        torch.testing.assert_close(after, net(x, agents=list(range(N))).values)
    assert (after - before).abs().amax((0, 2)).min() > 1e-3  # of every agent
    net.load_state_dict(twin.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net(x).values, before)
        precise = net.double()(x.double()).values
        torch.testing.assert_close(precise.float(), before)
        torch.testing.assert_close(copy.deepcopy(net)(x.double()).values, precise)
