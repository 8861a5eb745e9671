"""The connection to Ray: a running cluster where one is named, else a local Ray of our own."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.files import shown
from rllib_seqmarl.names import MODULE_FOLDERS

#: Bytes of the path of a Unix socket on Linux.
_LONGEST_SOCKET = 107
#: What a Ray that has only just begun has written, and some more.
_LEAST_BYTES = 1 << 20


@dataclass(frozen=True)
class RunOptions:
    """How a run relates to Ray and to earlier runs.

    Attributes:
        resume: goes on with what the storage holds.
        start: with ``resume``: starts what the storage does not hold.
        ray_address: a running cluster; None: the environment's RAY_ADDRESS, or a local Ray.
        ray_num_cpus: CPUs of the local Ray.
        wandb: project of Weights & Biases to which results are sent.
        mlflow: experiment of MLflow to which results are sent.
        verbose: shows Ray's own messages.
        arguments: of the command line, for the line that tells how to resume.
    """

    resume: bool = False
    start: bool = False
    ray_address: str | None = None
    ray_num_cpus: int | None = None
    wandb: str | None = None
    mlflow: str | None = None
    verbose: bool = False
    arguments: tuple[str, ...] = ()


def named_address(options: RunOptions) -> str | None:
    """The running cluster that is meant; None where a local Ray is to be started."""
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def prepare(options: RunOptions) -> None:
    """Keeps Ray's messages out of our own output, and a local Ray away from the network.

    To be called before ``import ray``; imports RLlib.
    """
    verbose = options.verbose
    # Ray's servers listen on every address of a machine, unless they are told what Ray's
    # default is on Windows and macOS: one node, on the loopback address.
    if named_address(options) is None and "ray" not in sys.modules:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    for name, value in {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "1" if verbose else "0",
        # The state that --resume reads is at most this old.
        "TUNE_GLOBAL_CHECKPOINT_S": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }.items():
        os.environ.setdefault(name, value)
    # Ctrl-C reaches us through Tune's own handler (see shutdown.py).
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "0"
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    _ray_compat.import_rllib()
    _ray_compat.expect_cluster(named_address(options) is not None)


def set_log_levels(verbose: bool) -> None:
    """Errors only, unless ``verbose``. To be called after ``import ray``."""
    if not verbose:
        for name in ("ray", "ray.rllib", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # The report at the end says it better.
        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
        logging.getLogger("ray.tune.execution.experiment_state").addFilter(_in_one_line)
        # Of a state that cannot be read this command says itself what to do.
        logging.getLogger("ray.tune.execution.tune_controller").addFilter(
            lambda record: "Failed to restore the run state" not in record.getMessage()
        )


def _in_one_line(record: logging.LogRecord) -> bool:
    """A filter that puts the exception's message in the place of its traceback."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg = f"{record.getMessage()} {' '.join(str(record.exc_info[1]).split())}"
        record.args, record.exc_info = (), None
    return True


@contextmanager
def connection(options: RunOptions) -> Iterator[bool]:
    """Ray for the length of a ``with`` block.

    Yields:
        Whether this is a local Ray that was started here; it ends with the block.

    Raises:
        UserError: the named cluster does not answer, or a local Ray cannot start.
    """
    import ray

    address = named_address(options) or "local"
    local = address == "local"
    if address.startswith("ray://"):
        raise UserError(
            f"{address}: Ray Client connections cannot be stopped and resumed safely; run this "
            "command on the cluster: ray job submit --address http://HEAD:8265 -- rllib train ..."
        )
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"{address} is an address for jobs: ray job submit --address {address} -- rllib train "
            "... To attach, give the head's HOST:PORT, as to `ray start --address`."
        )
    if not local and options.ray_num_cpus is not None:
        raise UserError("--ray-num-cpus is for a local Ray; the cluster has its own CPUs.")
    if local:
        _check_temporary_folder()
    else:
        _check_answers(address)
    level = logging.INFO if options.verbose else logging.ERROR
    try:
        if local:
            _ray_compat.start_local(
                address=address,
                num_cpus=options.ray_num_cpus,
                log_to_driver=options.verbose,
                logging_level=level,
                module_folders=MODULE_FOLDERS,
            )
        else:
            ray.init(
                address=address,
                log_to_driver=options.verbose,
                logging_level=level,
                job_config=_ray_compat.job_config(MODULE_FOLDERS),
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if local:
            raise UserError(f"Ray cannot start on this machine: {reason}.") from error
        raise UserError(
            f"{reason}. This machine must be a node of the cluster (ray start --address=HOST:PORT);"
            " a cluster with token authentication needs RAY_AUTH_MODE=token and the token of its "
            "head node (~/.ray/auth_token)."
        ) from None
    set_log_levels(options.verbose)
    try:
        yield local
    finally:
        ray.shutdown()


def _check_temporary_folder() -> None:
    """Makes sure that a local Ray can keep its sockets and logs where the environment says.

    Ray itself would end with the traceback of one of its processes, or wait for it.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "/tmp")
    where = "Ray cannot keep its sockets and logs in " + (
        variable if variable == "/tmp" else f"{variable}={shown(os.environ[variable])}"
    )
    folder = Path(os.environ.get(variable, "/tmp"), "ray")
    longest = f"{folder}/session_0000-00-00_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    excess = len(os.fsencode(longest)) - _LONGEST_SOCKET
    if not folder.is_absolute():
        raise UserError(f"{where}: give an absolute path.")
    if excess > 0:
        raise UserError(f"{where}: the path is too long for a socket, by {excess} bytes.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(_LEAST_BYTES))
    except OSError as error:
        raise UserError(
            f"{where}: {error.strerror}. Set RAY_TMPDIR to a folder with room."
        ) from None


def _check_answers(address: str) -> None:
    """Makes sure that something listens at host:port: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if address == "auto":  # Ray looks for the cluster of this machine, and knows at once
        return
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise UserError(
            f"{address!r} is no address of a cluster: give HOST:PORT, as to `ray start --address`, "
            "or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address}: {error.strerror or error}."
        ) from None


def check_shared(folder: Path | None) -> None:
    """Makes sure that the nodes which could run a trial have the experiment's folder.

    Ray Tune would find out at the first checkpoint, and what has been trained until then is lost.

    Args:
        folder: as it is here; None for a URI.

    Raises:
        UserError: a node lacks it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if folder is None or len(ray.nodes()) == 1:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_is_folder)
    nodes_of = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        nodes_of[look.options(scheduling_strategy=place).remote(str(folder))] = node
    lacking = []
    answers = list(nodes_of)
    for answer in ray.wait(answers, num_returns=len(answers), timeout=60)[0] if answers else ():
        # A node that is lost in this moment has nothing to say.
        with suppress(ray.exceptions.RayError):
            if not ray.get(answer):
                lacking.append(nodes_of[answer]["NodeManagerAddress"])
    if lacking:
        raise UserError(
            f"{folder} is not there on {', '.join(sorted(lacking))}: give --storage-path a folder "
            "that all machines of the cluster have at the same path, or a URI."
        )


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()
