"""A model of the official MAT code gives the official code's figures here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.interop.mat import convert_mat, load_mat
from rllib_seqmarl.nets.decoding.decode import METHODS, Decoding
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec


@pytest.fixture(scope="module")
def reference():
    """Weights, inputs and outputs of the official network: 5 agents, 2 blocks, 2 heads."""
    with np.load(Path(__file__).parents[1] / "data" / "official_mat_discrete.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def state_dict(reference):
    prefix = "weights/"
    return {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}


def test_teacher_forced_figures(reference, state_dict):
    policy = load_mat(state_dict, heads=2)
    with torch.no_grad():
        evaluation = policy.evaluate(
            reference["obs"], reference["action_mask"], reference["actions"], None, None
        )
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(evaluation.log_prob.squeeze(-1), reference["logp"], **close)
    torch.testing.assert_close(evaluation.entropy, reference["entropy"], **close)
    torch.testing.assert_close(evaluation.values, reference["values"], **close)


@pytest.mark.parametrize("method", METHODS)
def test_greedy_actions(reference, state_dict, method):
    policy = load_mat(state_dict, heads=2)
    with torch.no_grad():
        encoded = policy.encoder(reference["obs"])
    actions, log_prob, _, _ = Decoding(method)(
        policy.decoder, policy.distribution, encoded, reference["action_mask"], None
    )
    assert torch.equal(actions, reference["greedy_actions"])
    torch.testing.assert_close(log_prob.squeeze(-1), reference["greedy_logp"], atol=1e-5, rtol=0.0)


def test_the_number_of_heads_matters(reference, state_dict):
    policy = load_mat(state_dict, heads=1)
    with torch.no_grad():
        evaluation = policy.evaluate(
            reference["obs"], reference["action_mask"], reference["actions"], None, None
        )
    assert (evaluation.log_prob.squeeze(-1) - reference["logp"]).abs().max() > 1e-3


def test_masks_and_unused_modules_are_left_out(state_dict):
    state_dict["encoder.blocks.0.attn.mask"] = torch.ones(1, 1, 6, 6)
    state_dict["decoder.blocks.1.attn2.mask"] = torch.ones(1, 1, 6, 6)
    state_dict["encoder.state_encoder.0.weight"] = torch.ones(37)
    settings, parameters = convert_mat(state_dict)
    assert settings == (11, ActionSpec(7, discrete=True), 32, 2)
    assert parameters.keys() == load_mat(state_dict, heads=2).state_dict().keys()


def test_a_loaded_model_works_with_another_number_of_agents(state_dict):
    policy = load_mat(state_dict, heads=2)
    mask = torch.ones(2, 30, 7, dtype=torch.bool)
    assert policy.act(torch.randn(2, 30, 11), mask, deterministic=False).actions.shape == (2, 30)


def test_continuous_model():
    """The official layout, made from a policy of this package and read back."""
    torch.manual_seed(0)
    policy = SequentialPolicy(obs_dim=3, action=ActionSpec(2, discrete=False), embed_dim=8)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter)
    ours = policy.state_dict()
    official = {
        "encoder.obs_encoder.0": ours_of(ours, "encoder.embed.0"),
        "encoder.obs_encoder.1": ours_of(ours, "encoder.embed.1"),
        "encoder.ln": ours_of(ours, "encoder.norm"),
        "decoder.action_encoder.0": ours_of(ours, "decoder.token"),
        "decoder.ln": ours_of(ours, "decoder.norm"),
    }
    for layer in (0, 2, 3):
        official[f"encoder.head.{layer}"] = ours_of(ours, f"value.head.{layer}")
        official[f"decoder.head.{layer}"] = ours_of(ours, f"decoder.head.{layer}")
    norms = {
        "encoder": ("norm_attention", "norm_feed_forward"),
        "decoder": ("norm_self", "norm_cross", "norm_feed_forward"),
    }
    attentions = {
        "encoder": {"attn": "attention"},
        "decoder": {"attn1": "self_attention", "attn2": "cross_attention"},
    }
    for part, names in norms.items():
        block = f"{part}.blocks.0"
        for number, name in enumerate(names, start=1):
            official[f"{block}.ln{number}"] = ours_of(ours, f"{block}.{name}")
        for layer in (0, 2):
            official[f"{block}.mlp.{layer}"] = ours_of(ours, f"{block}.feed_forward.{layer}")
        for theirs, name in attentions[part].items():
            joined = ours_of(ours, f"{block}.{name}.in_projection")
            for index, layer in enumerate(("query", "key", "value")):
                third = slice(8 * index, 8 * index + 8)
                official[f"{block}.{theirs}.{layer}"] = {k: v[third] for k, v in joined.items()}
            official[f"{block}.{theirs}.proj"] = ours_of(ours, f"{block}.{name}.out_projection")
    state_dict = {
        f"{module}.{kind}": value
        for module, kinds in official.items()
        for kind, value in kinds.items()
    }
    state_dict["decoder.log_std"] = ours["distribution.log_std"]
    loaded = load_mat(state_dict, heads=1).state_dict()
    assert loaded.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(loaded[name], value), name


def ours_of(state_dict, module):
    return {
        kind: state_dict[f"{module}.{kind}"]
        for kind in ("weight", "bias")
        if f"{module}.{kind}" in state_dict
    }


@pytest.mark.parametrize("nested", [True, False])
def test_file(tmp_path, state_dict, nested):
    path = tmp_path / "transformer_10.pt"
    torch.save({"transformer": state_dict} if nested else state_dict, path)
    loaded = load_mat(path, heads=2).state_dict()
    direct = load_mat(state_dict, heads=2).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in direct.items())


def refused(call, match):
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path):
    path = tmp_path / "transformer.pt"
    refused(lambda: load_mat(path, heads=1), "Cannot read .*transformer.pt")
    path.write_bytes(b"not a model")
    refused(lambda: load_mat(path, heads=1), "Cannot read .*transformer.pt")
    torch.save([1, 2], path)
    refused(lambda: load_mat(path, heads=1), "does not hold the state_dict")


def test_bad_models(state_dict):
    def changed(**changes):
        return {k: v for k, v in {**state_dict, **changes}.items() if v is not None}

    mat_dec = changed(**{"decoder.mlp.0.weight": torch.ones(3)})
    refused(lambda: load_mat(mat_dec, heads=1), "MAT-Dec")
    no_head = changed(**{"decoder.head.3.weight": None})
    refused(lambda: load_mat(no_head, heads=1), "no 'decoder.head.3.weight'")
    no_key = changed(**{"decoder.blocks.1.attn2.key.weight": None})
    refused(
        lambda: load_mat(no_key, heads=1), r"decoder.blocks.1.cross_attention.in_projection.weight"
    )
    unknown = changed(**{"decoder.gru.weight": torch.ones(3)})
    refused(lambda: load_mat(unknown, heads=1), "unknown parameter 'decoder.gru.weight'")
    wrong = changed(**{"decoder.ln.weight": torch.ones(31)})
    refused(lambda: load_mat(wrong, heads=2), r"\[32\] and has \[31\]")
    refused(lambda: load_mat(state_dict, heads=3), "does not divide")
