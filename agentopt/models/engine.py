"""The embedded engine: llama.cpp's HTTP server in a separate process, for one model file.

`python -m agentopt.models.engine` reads its settings as one JSON line from standard input, so that the API key does
not appear in the process list, and prints `{"address": ...}` when it is ready. It exits when its standard input
closes or its parent dies. The only module that imports xllamacpp.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentopt.core.errors import CatalogError
from agentopt.core.extras import install_command
from agentopt.core.message_text import in_words

PROMPT_CACHE_MIB = 128
"""Memory for the cached state of prompts without a slot; llama.cpp's default is 8 GiB."""


def is_installed() -> bool:
    """Whether the engine's library is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def check_installed(model: str) -> None:
    """Raise `CatalogError` unless the engine's library is installed.

    Args:
        model: Catalogue name of the model that needs it.
    """
    if not is_installed():
        rule = f"the model {model!r} needs the embedded engine, which is not installed"
        raise CatalogError(rule, remedy=install_command("local"))


def missing_note(models: Iterable[str]) -> str | None:
    """Return that the engine's library is not installed; None if it is, or no model needs it.

    Args:
        models: Catalogue names of the local models.
    """
    if is_installed() or not (named := list(models)):
        return None
    need = "needs" if len(named) == 1 else "need"
    return f"{in_words(named)} {need} an engine that is not installed: {install_command('local')}"


def main() -> None:
    """Serve until the parent exits."""
    settings = json.loads(sys.stdin.buffer.readline())
    _exit_with_parent(settings["parent"])
    # llama.cpp may write to standard output, which is reserved for the address.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import xllamacpp

    try:
        server = xllamacpp.Server(_params(xllamacpp, settings))
    except RuntimeError as error:
        sys.exit(f"llama.cpp cannot serve {settings['path']}: {error}")
    print(json.dumps({"address": server.listening_address}), file=answer, flush=True)
    threading.Event().wait()


def _exit_with_parent(parent: int) -> None:
    """End this process when the parent ends, for whatever reason."""
    if sys.platform == "linux":
        # A guarantee of the kernel; also holds while the model loads, and if a fork keeps our standard input open.
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(0)
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    # Not sys.stdin: this thread would hold the lock of its buffer when the interpreter exits.
    while os.read(0, 1):
        pass
    # Nothing needs cleaning up, and llama.cpp's threads would delay a normal exit.
    os._exit(0)


def _params(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [settings["api_key"]]
    params.cors_origins = ""
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.verbosity = 1
    params.warmup = False
    params.n_gpu_layers = 0
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context_length"] * settings["parallel"]
    params.cache_prompt, params.cache_ram_mib = True, PROMPT_CACHE_MIB
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = settings["threads"]
        # Waiting threads sleep instead of spinning: otherwise two engines would take cores from each other.
        cpu.poll = 0
    return params


def physical_cores() -> int:
    """Return the number of physical cores this process may use; llama.cpp is slower with more threads."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, os.cpu_count() or 1)
    return max(1, min(len({_core_of(cpu) for cpu in allowed}), _quota()))


def _core_of(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Return the CPU limit of the container, in whole cores (control groups, version 2)."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):  # no such group, or "max"
        return os.cpu_count() or 1


if __name__ == "__main__":
    main()
