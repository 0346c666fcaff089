"""`agentopt` and `python -m agentopt` are the same command."""

import os
import signal


def main() -> None:
    """Load the command line, and run it. Ctrl-C meanwhile ends the process without a traceback."""
    # Not KeyboardInterrupt, which libraries may catch or replace while they load. Nothing has begun that needs an end.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from agentopt.cli.main import main as run

    try:
        run()
    except BaseException as error:
        if _is_interrupt(error):
            from agentopt.cli.interrupts import interrupted_code

            raise SystemExit(interrupted_code()) from None
        raise
    finally:
        # If a KeyboardInterrupt has passed through an `exec`, as a dataclass has while it loads, Python ends itself by
        # SIGINT, whatever the exit code is. The next `exec` resets that.
        exec("")  # noqa: S102


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C raised an exception, or the one in which it was wrapped, as in `RuntimeError` by a class body."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__cause__))


if __name__ == "__main__":
    main()
