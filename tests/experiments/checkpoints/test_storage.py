"""The folder of an experiment: nothing is overwritten, and resuming is safe."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import storage
from rllib_seqmarl.experiments.checkpoints.storage import ExperimentFolder
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.sampling import Sampler

STATE = "experiment_state-2026-01-01_00-00-00.json"


@pytest.fixture
def folder(tmp_path):
    def folder(**changes):
        settings = {"config": {"lr": 0.1}, "stop": {"training_iteration": 2}, **changes}
        return ExperimentFolder(
            ExperimentSpec("mine", "f.yaml", "MAT", storage_path=str(tmp_path), **settings)
        )

    return folder


def state(*trial_ids):
    stop = {"training_iteration": 2}
    trials = [{"trial_id": i, "status": "PAUSED", "stopping_criterion": stop} for i in trial_ids]
    return json.dumps({"trial_data": [[json.dumps(trial), "{}"] for trial in trials]})


def test_a_folder_with_results_is_not_new(folder):
    new = folder()
    new.check_new()
    new.path.mkdir()
    new.note_settings()
    new.check_new()  # begun, and died before anything came of it

    (new.path / "MAT_trial").mkdir()

    with pytest.raises(UserError, match=r"--resume.*--experiment-name"):
        folder().check_new()


def test_only_a_state_of_tune_can_be_resumed(folder):
    new = folder()
    assert not new.can_resume()
    new.path.mkdir()
    new.note_settings()
    assert not new.can_resume()
    (new.path / STATE).write_text(state("a", "b"))
    assert new.can_resume()
    assert new.check_resume() == ["a", "b"]


def test_changed_settings_are_refused(folder):
    begun = folder()
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a"))

    assert folder(num_samples=1).check_resume() == ["a"]
    for change, named in (
        ({"config": {"lr": 0.2}}, "'config/lr' was 0.1 .* is 0.2 now"),
        ({"config": {"lr": 0.1, "gamma": 0.9}}, "'config/gamma' was None"),
        ({"num_samples": 2}, "'num_samples'"),
    ):
        with pytest.raises(UserError, match=named):
            folder(**change).check_resume()


def test_when_a_trial_ends_may_change(folder):
    begun = folder()
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a"))

    longer = folder(stop={"training_iteration": 3}, time_budget_s=60.0)
    assert longer.check_resume() == ["a"]
    assert longer.notes == ["trials stop at training_iteration 3 (before: training_iteration 2)."]
    assert folder(stop={"training_iteration": 3}).check_resume() == ["a"]


def test_experiments_of_one_name_are_numbered(folder):
    begun = folder()
    assert begun.numbers_there() == []
    for name in ("mine", "mine-3", "mine-12", "mine-1", "mine-03", "mine-x", "yours-2", "mine-5"):
        (begun.path.parent / name).mkdir()
        if name != "mine-5":  # an empty folder is free
            (begun.path.parent / name / "MAT_trial").mkdir()
    assert begun.numbers_there() == [1, 3, 12]


def test_where_the_work_is_done_may_change(folder):
    config = {"lr": 0.1, "num_env_runners": 0, "num_gpus_per_learner": 1, "num_learners": 1}
    begun = folder(config=config)
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a"))

    moved = folder(config={"lr": 0.1, "num_env_runners": 4, "num_learners": 1})
    assert moved.check_resume() == ["a"]
    assert moved.moved == {"num_env_runners": (0, 4), "num_gpus_per_learner": (1, None)}


def test_what_is_searched_over_must_not_change(folder):
    searched = {"lr": 0.1, "num_envs_per_env_runner": Sampler("choice", [8, 16])}
    begun = folder(config=searched)
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a"))

    assert folder(config=searched).check_resume() == ["a"]
    with pytest.raises(UserError, match="'config/num_envs_per_env_runner' was '!choice"):
        folder(config={"lr": 0.1, "num_envs_per_env_runner": 8}).check_resume()


def test_a_full_disk_costs_no_more_than_the_copy(folder, monkeypatch):
    monkeypatch.setattr(storage, "_COPY_EVERY_S", -1.0)
    begun = folder()
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a"))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
    try:
        begun.keep_copy_of_state()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in begun.path.iterdir()} == {STATE, "experiment.json"}
    begun.keep_copy_of_state()
    assert (begun.path / "last_good_state.json").read_text() == state("a")


def test_settings_that_json_cannot_hold_are_compared_by_type(folder):
    config = {"lr": 0.1, "class": dict, "object": object(), "many": (1, 2)}
    begun = folder(config=config)
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a"))

    assert folder(config={**config, "object": object()}).check_resume() == ["a"]


def test_a_damaged_state_is_replaced_by_the_last_good_one(folder, monkeypatch):
    monkeypatch.setattr(storage, "_COPY_EVERY_S", -1.0)
    begun = folder()
    begun.path.mkdir()
    begun.note_settings()
    file = begun.path / STATE
    file.write_text(state("a", "b"))
    begun.keep_copy_of_state()
    file.write_text(state("a", "b")[:20])
    begun.keep_copy_of_state()  # does not copy what cannot be read

    assert folder().check_resume() == ["a", "b"]
    assert file.read_text() == state("a", "b")


def test_what_was_decided_before_a_failure_is_forgotten(folder):
    """Else Ray Tune ends a resumed trial as soon as it has written a checkpoint."""
    begun = folder()
    begun.path.mkdir()
    begun.note_settings()
    content = json.loads(state("a"))
    content["runner_data"] = {"_cached_trial_decisions": {"a": "STOP"}, "_total_time": 7.0}
    (begun.path / STATE).write_text(json.dumps(content))

    assert folder().check_resume() == ["a"]
    kept = json.loads((begun.path / STATE).read_text())
    assert kept["trial_data"] == content["trial_data"]
    assert kept["runner_data"]["_cached_trial_decisions"] == {}
    assert kept["runner_data"]["_total_time"] == 7.0


def test_a_damaged_state_without_a_copy_is_said(folder):
    begun = folder()
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text(state("a")[:20])

    with pytest.raises(UserError, match=r"is damaged.*--restore"):
        folder().check_resume()


def test_storage_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "mine").write_text("a file")

    with pytest.raises(UserError, match="is a file"):
        folder().check_new()
    with pytest.raises(UserError, match="cannot write results"), folder().hold():
        pass


def test_uris_are_left_to_ray():
    remote = ExperimentFolder(
        ExperimentSpec("mine", "f", "MAT", {}, storage_path="gs://bucket/there/")
    )

    assert str(remote) == "gs://bucket/there/mine"
    remote.check_new()
    with remote.hold() as lines:
        assert lines == []
    remote.note_settings()
    remote.keep_copy_of_state()
    assert not remote.can_resume()


@pytest.mark.parametrize(
    ("storage", "name", "reason"),
    [
        ("s4://bucket/there", "mine", "there is no storage 's4'. Known: .*s3"),
        ("http://host/there", "mine", "there is no storage 'http'"),
        ("s3://", "mine", "names no place"),
        ("s3:/there", "mine", "is a URI"),
        ("~nosuchuser/there", "mine", "there is no user 'nosuchuser'"),
        ("\udcff", "mine", "is not UTF-8"),
        ("d/" * 1900, "mine", "is too long"),
        ("here", "n" * 256, "has 256 bytes; a folder's name has at most 255"),
        ("here", "ü" * 128, "has 256 bytes"),
    ],
)
def test_places_where_no_results_can_be(storage: str, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ExperimentFolder(ExperimentSpec(name, "f", "MAT", {}, storage_path=storage))


def test_a_storage_that_cannot_be_reached_is_told_before_ray_starts() -> None:
    folder = ExperimentFolder(ExperimentSpec("a", "f", "MAT", {}, storage_path="abfs://x"))
    with pytest.raises(UserError, match="storage path: abfs://x cannot be used: Azure"):
        folder.hold()


def test_a_file_uri_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    spec = ExperimentSpec("mine", "f", "MAT", {}, storage_path=f"file://{tmp_path}")
    assert ExperimentFolder(spec).path == tmp_path / "mine"


def test_a_folder_that_can_never_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, reason in (("/proc/there", "No such file"), (tmp_path / "file", "Not a dir")):
        spec = ExperimentSpec("mine", "f", "MAT", {}, storage_path=str(place))
        with (
            pytest.raises(UserError, match=f"cannot write results to .*mine: {reason}"),
            ExperimentFolder(spec).hold(),
        ):
            pass
