"""The embedded engine: llama.cpp's own HTTP server in a process of its own, for one model file.

`python -m agentopt.models.engine` reads its settings as one JSON line from standard input, so that the key is in no
process list, and prints `{"address": ...}` when it serves. It ends when its standard input closes or its parent dies.
The only importer of xllamacpp.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

PROMPT_CACHE_MIB = 128
"""Memory for the state of prompts that lost their slot; llama.cpp's default is 8 GiB."""


def main() -> None:
    """Serve until the parent is gone."""
    settings = json.loads(sys.stdin.buffer.readline())
    _die_with(settings["parent"])
    # llama.cpp may write to standard output, which belongs to the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import xllamacpp

    try:
        server = xllamacpp.Server(_params(xllamacpp, settings))
    except RuntimeError as error:
        sys.exit(f"llama.cpp cannot serve {settings['path']}: {error}")
    print(json.dumps({"address": server.listening_address}), file=answer, flush=True)
    threading.Event().wait()


def _die_with(parent: int) -> None:
    """End this process when the parent ends, however it ends."""
    if sys.platform == "linux":
        # The kernel's own promise; it also holds while the model loads or where a fork keeps our input open.
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the promise was made
            os._exit(0)
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    # Not sys.stdin: its buffer has a lock that would be held when the interpreter ends.
    while os.read(0, 1):
        pass
    # Nothing to clean up, and llama.cpp's threads would hold up an ordinary exit.
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
        # Waiting threads sleep instead of spinning: two engines at once would otherwise take each other's cores.
        cpu.poll = 0
    return params


def physical_cores() -> int:
    """Cores this process may run on, hyper-threads counted once; llama.cpp is slower with more threads."""
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
    """Whole cores that the container may use at once (control groups, version 2)."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):  # no such group, or "max"
        return os.cpu_count() or 1


if __name__ == "__main__":
    main()
