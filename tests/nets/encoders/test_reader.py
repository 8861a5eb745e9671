"""What a network reads of observations: the numbers themselves, or an encoder's features."""

from __future__ import annotations

import pytest
import torch
from helpers.encoders import Flat
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.nets.agents.stacked import AgentNetwork
from rllib_seqmarl.nets.decoding.decode import METHODS
from rllib_seqmarl.nets.encoders.reader import CriticReader, ObservationReader
from rllib_seqmarl.nets.encoders.ready import channel_axis
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

BOTH = Layout.of({"image": (6, 5, 3), "speed": (2,)}, agent_id=2)
IMAGE = Layout.of({"image": (6, 5, 3)})
OWN = "helpers.encoders"


def observe(layout: Layout, *rows: int) -> Tensor:
    """As from an environment: the slot is one-hot."""
    obs = torch.rand(*rows, layout.size, generator=torch.Generator().manual_seed(0))
    if layout.agent_id:
        obs[..., -layout.agent_id :] = torch.eye(layout.agent_id)
    return obs


def test_without_an_encoder_a_vector_stays_what_it_is() -> None:
    reader = ObservationReader(Layout.of({"a": (2,), "b": (1,)}, agent_id=2))
    obs = observe(reader.layout, 3, 2)
    assert reader(obs) is obs
    assert reader.output_size == 5
    assert list(reader.parameters()) == []


def test_without_an_encoder_an_image_is_refused_with_both_remedies() -> None:
    with pytest.raises(UserError, match=r"image \[6, 5, 3\].*observation_encoder.*'flatten: true'"):
        ObservationReader(BOTH)


@pytest.mark.parametrize("encoder", ["mlp", "cnn", f"{OWN}:Flat"])
@pytest.mark.parametrize("layout", [BOTH, IMAGE], ids=str)
def test_every_entry_reaches_the_features_and_every_parameter_gets_a_gradient(
    encoder: str, layout: Layout
) -> None:
    torch.manual_seed(0)
    reader = ObservationReader(layout, encoder, 16)
    obs = observe(layout, 4, 3, 2).requires_grad_()
    features = reader(obs)
    assert features.shape == (4, 3, 2, reader.output_size)
    features.square().sum().backward()
    assert obs.grad is not None
    read = obs.grad.flatten(0, -2).abs().sum(0)
    sizes = [*(entry.size for entry in layout.entries), layout.agent_id]
    assert all(part.sum() > 0 for part in read.split(sizes) if len(part))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reader.parameters())


def test_each_row_is_read_by_itself_and_the_slot_stands_behind() -> None:
    reader = ObservationReader(BOTH, "cnn", 16)
    obs = observe(BOTH, 3, 2)
    features = reader(obs)
    torch.testing.assert_close(features[1, 1], reader(obs[1:2, 1:2])[0, 0])
    assert torch.equal(features[..., -2:], torch.eye(2).expand(3, 2, 2))


@pytest.mark.parametrize("encoder", [None, "mlp", "cnn"])
def test_bytes_are_read_as_shares_of_255(encoder: str | None) -> None:
    layout = IMAGE if encoder else Layout.vector(5)
    reader = ObservationReader(layout, encoder, 8)
    obs = (observe(layout, 7) * 256).to(torch.uint8)
    assert torch.equal(reader(obs), reader(obs.float() / 255))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((84, 84, 3), 2),
        ((3, 84, 84), 0),
        ((7, 7, 20), 2),
        ((20, 7, 7), 0),
        ((60, 80, 3), 2),
        ((3, 60, 80), 0),
        ((60, 80), None),
    ],
)
def test_which_axis_counts_channels(shape: tuple[int, ...], axis: int | None) -> None:
    assert channel_axis(shape) == axis
    reader = ObservationReader(Layout.of({"image": shape}), "cnn", 8)
    channels = 1 if axis is None else shape[axis]
    assert next(reader.parameters()).shape[1] == channels


def test_the_same_image_with_channels_first_and_last_is_the_same() -> None:
    first = ObservationReader(Layout.of({"i": (3, 6, 6)}), "cnn", 8)
    last = ObservationReader(Layout.of({"i": (6, 6, 3)}), "cnn", 8)
    last.load_state_dict(first.state_dict())
    image = torch.rand(2, 3, 6, 6)
    moved = image.movedim(1, 3)
    torch.testing.assert_close(first(image.flatten(1)), last(moved.flatten(1)))


def test_one_array_comes_as_a_tensor_and_several_by_name() -> None:
    """`Flat` itself compares the shapes with those that it was built with."""
    for layout in (IMAGE, BOTH):
        reader = ObservationReader(layout, f"{OWN}:Flat", 8)
        assert isinstance(reader.encoder, Flat)
        assert reader.encoder.shapes == layout.shapes
        assert reader.output_size == 3 + layout.agent_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoWidth", "cannot be built as Encoder.shapes, width. .*TypeError: .*positional"),
        ("not_a_module", "is a dict, not a torch.nn.Module"),
        ("Missing", "cannot be imported: module .* has no attribute 'Missing'"),
        ("Gives", "failed on two observations of zeros, image .*NotImplementedError: not yet"),
        ("Words", r"gave str for image \[6, 5, 3\].*: \[2, F\] is needed"),
        ("Whole", r"gave torch.int64 .*: \[2, F\] is needed"),
        ("OneAxisMore", r"gave a tensor \[2, 1, 3\] for 2 observations"),
        ("OneRow", r"gave a tensor \[1, 3\] for 2 observations"),
        ("NotANumber", "gave NaN or infinite features"),
    ],
)
def test_a_wrong_encoder_is_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"encoder '{OWN}:{name}'.* {message}") as line:
        ObservationReader(BOTH, f"{OWN}:{name}", 8)
    assert "\n" not in str(line.value)


def test_no_action_is_drawn_from_features_that_are_not_finite() -> None:
    reader = ObservationReader(IMAGE, f"{OWN}:InfiniteOfLit", 8)
    with torch.no_grad(), pytest.raises(UserError, match="gave NaN or infinite features"):
        reader(torch.ones(2, IMAGE.size))


def test_observations_that_are_not_finite_are_not_the_encoders_fault() -> None:
    """A runner names environment, step and agent at the end of the rollout."""
    reader = ObservationReader(IMAGE, "cnn", 8)
    with torch.no_grad():
        assert reader(torch.full((2, IMAGE.size), torch.nan)).isnan().any()


def test_cnn_refuses_what_has_no_image() -> None:
    with pytest.raises(UserError, match=r"no image in the observation, obs \[4\]: .*'flatten'"):
        ObservationReader(Layout.vector(4), "cnn", 8)


def test_cnn_refuses_more_axes_than_an_image_has() -> None:
    with pytest.raises(UserError, match=r"'film' is \[4, 6, 6, 3\]: use 'mlp'"):
        ObservationReader(Layout.of({"film": (4, 6, 6, 3)}), "cnn", 8)


@pytest.mark.parametrize(("state_size", "num_obs"), [(0, 1), (0, 2), (3, 1), (3, 2)])
def test_a_critic_reads_the_observations_among_its_numbers(state_size: int, num_obs: int) -> None:
    reader = CriticReader(ObservationReader(BOTH, "cnn", 8), state_size, num_obs)
    state, obs = torch.rand(4, 5, state_size), observe(BOTH, 4, 5, num_obs, 2)[..., 0, :]
    features = reader(torch.cat((state, obs.flatten(-2)), -1))
    assert features.shape[-1] == reader.output_size
    expected = torch.cat((state, *(reader.reader(obs[..., n, :]) for n in range(num_obs))), -1)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("num_param_sets", [1, 3])
def test_agents_have_encoders_of_their_own_or_share_one(num_param_sets: int) -> None:
    torch.manual_seed(0)
    readers = [ObservationReader(IMAGE, "cnn", 8) for _ in range(num_param_sets)]
    network = AgentNetwork(
        readers[0].output_size,
        2,
        num_param_sets=num_param_sets,
        hidden_sizes=[8],
        activation="relu",
        feature_norm=True,
        recurrent=False,
        output_gain=1.0,
        readers=readers,
    )
    obs = observe(IMAGE, 4, 3)
    every = network(network.prepare(obs)).values
    assert every.shape == (4, 3, 2)
    some = network(obs[:, [2, 0]], agents=[2, 0]).values
    torch.testing.assert_close(some, every[:, [2, 0]])
    network(obs[:, [2]], agents=[2]).values.sum().backward()
    moved = [next(reader.parameters()).grad is not None for reader in readers]
    assert moved == ([True] if num_param_sets == 1 else [False, False, True])


@pytest.mark.parametrize("discrete", [True, False])
def test_all_ways_of_decoding_agree_behind_an_encoder(discrete: bool) -> None:
    torch.manual_seed(0)
    reader = ObservationReader(BOTH, "cnn", 16)
    policy = SequentialPolicy(
        obs_dim=reader.output_size,
        action=ActionSpec(3, discrete),
        num_agents=2,
        embed_dim=16,
        reader=reader,
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    obs = (observe(BOTH, 9, 2) * 255).to(torch.uint8)
    found = []
    for method in METHODS:
        policy.decode.method = method
        generator = torch.Generator().manual_seed(3)
        found.append(policy.act(obs, None, deterministic=False, generator=generator))
    for one in found[1:]:
        torch.testing.assert_close(one.actions, found[0].actions, atol=1e-4, rtol=1e-4)
    again = policy.evaluate(obs, None, found[0].actions)
    torch.testing.assert_close(again.log_prob, found[0].log_prob, atol=4e-5, rtol=1e-5)
