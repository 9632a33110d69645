"""The command line: parse arguments, call the API, print. No logic of its own."""

from __future__ import annotations

import contextlib
import os
import sys

from rushlight.errors import RushlightError


def main(arguments: list[str] | None = None) -> None:
    """Run `rushlight`, and leave with its exit code.

    0 done, 1 a run that failed, 2 bad usage or bad input, 130 interrupted (and saved), 143 terminated (and saved).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    from rushlight.signals import Terminated, ending_in_time

    try:
        with ending_in_time():
            from rushlight.cli.app import app

            sys.exit(app(arguments, prog_name="rushlight", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated as ended:
        sys.exit(ended.code)
    except Exception as raised:
        from rushlight.cli.app import app, launched_elsewhere
        from rushlight.cli.help import teach
        from rushlight.console import print_error

        error = teach(raised, arguments, app)
        is_helped = type(raised).__name__ == "NoArgsIsHelpError"  # the help is printed by then
        if not is_helped and not launched_elsewhere():
            print_error(error, wants_traceback)
        sys.exit(error.exit_code if isinstance(error, RushlightError) else 1)
    finally:
        let_go()


def let_go() -> None:
    """Point a standard stream that takes no more words at nothing: Python's own last flush would fail on it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
