"""The command line: parse arguments, call the API, print. No logic of its own."""

from __future__ import annotations

import sys

from rushlight.errors import RushlightError


def main(arguments: list[str] | None = None) -> None:
    """Run `rushlight`, and leave with its exit code.

    0 done, 1 a run that failed, 2 bad usage or bad input, 130 interrupted (and saved), 143 terminated (and saved).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    from rushlight.cli.app import app

    try:
        app(arguments, prog_name="rushlight")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `rushlight runs | head`: nobody reads on
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        from rushlight.console import print_error

        print_error(error, wants_traceback)
        sys.exit(error.exit_code if isinstance(error, RushlightError) else 1)
