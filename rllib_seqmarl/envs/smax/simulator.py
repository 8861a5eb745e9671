"""JAX, set up for one core and with compiled functions kept on disk, and JaxMARL's SMAX.

Whatever of `envs.smax` needs JAX takes it from here.

What XLA has compiled is kept in ``$XDG_CACHE_HOME/rllib-seqmarl/jax`` (``~/.cache/...``), 256 MB at
most, so that the next process of this machine loads it. ``JAX_ENABLE_COMPILATION_CACHE=false``
switches that off, ``JAX_COMPILATION_CACHE_DIR`` names another folder; both are JAX's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import platform
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

# Read by JAX on its first import. An actor has one core: a second XLA thread on a core that
# something else uses costs far more than it brings.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax

jnp = jax.numpy
_CACHE_BYTES = 256 * 1024**2


def _cache_folder() -> Path | None:
    """The folder of this kind of processor, made if need be; None where nothing can be written.

    Machine code of one processor may stop another one, and homes are shared between machines.
    """
    processor = platform.processor() + platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        processor += "".join(sorted(named))
    kind = hashlib.sha256(processor.encode()).hexdigest()[:16]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "rllib-seqmarl" / "jax" / kind
        # What lies there is run: nobody else may write to it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only home, or none at all
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _keep_what_is_compiled() -> None:
    """Sets JAX's own cache up, unless somebody has done so."""
    if jax.config.jax_compilation_cache_dir is not None:
        return
    if not jax.config.jax_enable_compilation_cache:
        return
    folder = _cache_folder()
    if folder is None:
        return
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        # With a bound JAX locks the folder, so that several processes can share it.
        "jax_compilation_cache_max_size": _CACHE_BYTES,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)


def _import_smax() -> ModuleType:
    """JaxMARL's SMAX alone; its packages import every environment that JaxMARL has, in seconds.

    While SMAX is imported, empty modules stand for those packages. Whoever imports JaxMARL later
    gets all of it, with the same SMAX.
    """
    packages = ("jaxmarl", "jaxmarl.environments")
    absent = [name for name in packages if name not in sys.modules]
    try:
        for name in absent:
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            sys.modules[name] = importlib.util.module_from_spec(spec)
        return importlib.import_module("jaxmarl.environments.smax")
    finally:
        for name in absent:
            sys.modules.pop(name, None)


_keep_what_is_compiled()
# JaxMARL prints on import, and points sys.stdout and sys.stderr at the original streams.
with (
    contextlib.redirect_stderr(sys.stderr),
    contextlib.redirect_stdout(io.StringIO()) as _silence,
    mock.patch.object(sys, "__stdout__", _silence),
):
    _smax = _import_smax()

HeuristicEnemySMAX = _smax.HeuristicEnemySMAX
Scenario = _smax.Scenario
