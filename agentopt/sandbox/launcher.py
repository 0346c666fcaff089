"""What runs first inside the sandbox: sets the limits on itself, then becomes the program.

Its source is handed to the sandbox's interpreter as a text, so it uses the standard library alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def launch(order: str) -> None:
    """Become the program. `order` is JSON: `limits` by the names of `resource`, `file`, and `uid` or null."""
    asked = json.loads(order)
    if asked["uid"] is not None:
        os.setgroups([])
        os.setresgid(asked["uid"], asked["uid"], asked["uid"])
        os.setresuid(asked["uid"], asked["uid"], asked["uid"])
    for name, (soft, hard) in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    # -I: nothing of the folder or the environment steers the interpreter; -u: output in the order it was made.
    os.execv(sys.executable, [sys.executable, "-I", "-B", "-u", asked["file"]])  # noqa: S606 - no shell on purpose


if __name__ == "__main__":
    launch(sys.argv[1])
