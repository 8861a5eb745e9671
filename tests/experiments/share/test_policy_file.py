"""Policies in files without code: they play as their checkpoints do, and nothing else gets in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rllib_seqmarl import __version__
from rllib_seqmarl.cli import main
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint, evaluate_policy
from rllib_seqmarl.experiments.share.policy_file import SharedPolicy, export

ALGORITHMS = ("SrSv", "SeCA", "PMAT")
#: Two envs play 5 episodes: how many there are is part of what the file must hold.
PLAY = {"episodes": 5, "seed": 3}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For each algorithm the folder of a checkpoint and the file of its policy."""
    from rllib_seqmarl import registry

    made = {}
    for name in ALGORITHMS:
        config = registry.config_class(name)().environment("private_cue")
        sizes = {"num_envs_per_env_runner": 2, "rollout_fragment_length": 8, "seed": 7}
        sizes |= {"embed_dim": 16, "num_epochs": 1}
        if name == "SeCA":
            sizes |= {"hidden_dim": 16, "hypernet_dim": 16, "state": "observations"}
        config.update_from_dict(sizes)
        algorithm = config.build_algo()
        try:
            algorithm.train()
            folder = tmp_path_factory.mktemp("shared")
            algorithm.save_to_path(str(folder / "checkpoint"))
        finally:
            algorithm.stop()
        export(folder / "checkpoint", folder / "policy.safetensors")
        made[name] = (folder / "checkpoint", folder / "policy.safetensors")
    return made


def parts(file: Path):
    with safe_open(file, framework="pt") as opened:
        weights = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
        return weights, json.loads(opened.metadata()["rllib_seqmarl"])


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("explore", [False, True], ids=["greedy", "sampled"])
def test_the_file_plays_as_the_checkpoint_bit_for_bit(name, explore, shared, monkeypatch):
    checkpoint, file = shared[name]
    expected = evaluate_checkpoint(str(checkpoint), explore=explore, **PLAY)

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for function in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, function, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    got = evaluate_policy(SharedPolicy(file), explore=explore, **PLAY)

    assert got.pop("checkpoint") == str(file)
    assert expected.pop("checkpoint") == str(checkpoint)
    assert got == expected
    assert len(got["per_episode"]["episode_return"]) == 5


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_file_says_what_it_is_and_holds_no_more_than_acting_needs(name, shared):
    weights, header = parts(shared[name][1])

    assert header["version"] == __version__
    assert (header["algorithm"], header["env"]) == (name, "private_cue")
    assert header["settings"]["embed_dim"] == 16
    assert header["observation"]["obs"][0] == header["num_agents"]
    assert header["action"]["discrete"] is True
    assert not any("value" in key or "critic" in key or "target" in key for key in weights)


CHANGES = {
    "not JSON": (lambda header: "{", "header is not JSON"),
    "a list": (lambda header: "[]", "must be a mapping"),
    "newer": (lambda header: header | {"format": 3}, "install a newer one"),
    "missing": (lambda header: {k: v for k, v in header.items() if k != "env"}, "'env'"),
    "wrong type": (lambda header: header | {"num_agents": True}, "'num_agents'"),
    "algorithm": (lambda header: header | {"algorithm": "SrSw"}, "Did you mean 'SrSv'"),
    "environment": (lambda header: header | {"env": "private_cu"}, "Did you mean 'private_cue'"),
    "env_config": (lambda header: header | {"env_config": {"agents": 3}}, "'agents'"),
    "RLlib's setting": (
        lambda header: header | {"settings": {"env_runner_cls": "os.system"}},
        "'env_runner_cls' is no setting of SrSv",
    ),
    "wrong value": (
        lambda header: header | {"settings": header["settings"] | {"network": "trans"}},
        "'network' must be one of",
    ),
    "other sizes": (
        lambda header: header | {"settings": header["settings"] | {"embed_dim": 32}},
        "does not fit",
    ),
    "deeper": (
        lambda header: header | {"settings": header["settings"] | {"num_blocks": 2}},
        "lacks the weights",
    ),
    "imports": (lambda header: header | {"env": "os:system"}, "os:system.*--trust-imports"),
    "algorithm imports": (
        lambda header: header | {"algorithm": "os:system"},
        "os:system.*--trust-imports",
    ),
    "setting imports": (
        lambda header: header | {"settings": header["settings"] | {"order": "os:getcwd"}},
        "os:getcwd.*--trust-imports",
    ),
    "imports within": (
        lambda header: (
            header
            | {
                "env": "pettingzoo",
                "env_config": {"env": "subprocess:run", "kwargs": {"args": "ls"}},
            }
        ),
        "subprocess:run.*--trust-imports",
    ),
}


def refused(file, expected):
    with pytest.raises(UserError, match=expected) as caught:
        evaluate_policy(SharedPolicy(file), **PLAY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_header_gives_one_line(change, shared, tmp_path):
    weights, header = parts(shared["SrSv"][1])
    alter, expected = CHANGES[change]
    header = alter(header)
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(weights, tmp_path / "f.safetensors", {"rllib_seqmarl": text})

    refused(tmp_path / "f.safetensors", expected)


def test_changed_weights_give_one_line(shared, tmp_path):
    file = tmp_path / "f.safetensors"
    weights, header = parts(shared["SrSv"][1])
    text = {"rllib_seqmarl": json.dumps(header)}
    name = next(name for name, value in weights.items() if value.ndim == 2)
    for changed, expected in (
        (weights | {name: weights[name].double()}, "float64"),
        (weights | {name: weights[name].T.contiguous().clone()[:1]}, "does not fit"),
        (weights | {name: weights[name] / 0.0}, "not finite"),
        (weights | {"more": torch.zeros(1)}, "has no 'more'"),
    ):
        save_file(changed, file, text)
        refused(file, expected)
    save_file(weights, file)
    refused(file, "rllib export")


def test_other_files_give_one_line(shared, tmp_path):
    file = tmp_path / "f.safetensors"
    refused(file, "no such file")
    whole = shared["SrSv"][1].read_bytes()
    for content in (b"", whole[:200], whole[:-10], pickle.dumps({"a": 1}), b"\xff" * 64):
        file.write_bytes(content)
        refused(file, "no safetensors file, or it is damaged")


def test_the_command(shared, tmp_path, capsys, monkeypatch):
    checkpoint, _ = shared["SeCA"]
    file = tmp_path / "policy.safetensors"

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["export", str(checkpoint), str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("can run code") == 1
    assert printed.splitlines()[-1] == f"  rllib evaluate {file}"
    for target, expected in (
        (file, "exists already"),
        (tmp_path / "policy.pt", "must end with .safetensors"),
        (tmp_path / "no" / "policy.safetensors", "does not exist"),
    ):
        assert main(["export", str(checkpoint), str(target)]) == 2
        assert expected in capsys.readouterr().err

    results = []
    for source in (file, checkpoint):
        out = tmp_path / "out.json"
        arguments = ["evaluate", str(source), "--episodes", "4", "--out", str(out)]
        assert main([*arguments, "--env-config", '{"num_agents": 4}']) == 0
        results.append(json.loads(out.read_text()))
        assert "can run code" not in capsys.readouterr().out  # once is enough
    assert results[0].pop("checkpoint") != results[1].pop("checkpoint")
    assert results[0] == results[1]


def test_a_policy_made_of_own_code_is_not_exported(shared, tmp_path, monkeypatch):
    from rllib_seqmarl.experiments.share import policy_file as sharing

    checkpoint, _ = shared["SrSv"]
    config = sharing.load_config(checkpoint)
    monkeypatch.setattr(sharing, "load_config", lambda path: config)
    config.env_config = {"callback": print}
    with pytest.raises(UserError, match="JSON cannot"):
        export(checkpoint, tmp_path / "f.safetensors")
    config._rl_module_spec = object()
    with pytest.raises(UserError, match="code of yours"):
        export(checkpoint, tmp_path / "f.safetensors")
