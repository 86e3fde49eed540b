"""The entry point of `penchant`. What an operator can correct ends a command with one line, and never a traceback."""

import sys
from typing import Final, NoReturn

NEEDS: Final = "the command line needs the server's packages: pip install 'penchant[server,cpu]'"
_INTERRUPTED: Final = 130


def main() -> None:
    """Run the command in `sys.argv`."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules are imported; later each command handles it
        _stop("interrupted", _INTERRUPTED)


def _run() -> None:
    try:
        from penchant.service.cli.app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("penchant"):
            raise
        _stop(f"{missing.name} is not installed; {NEEDS}", 2)
    try:
        app()
    except Exception as error:
        from penchant.service.cli.refusals import explain

        reason = explain(error)
        if reason is None:
            raise
        _stop(reason, 1)


def _stop(problem: str, status: int) -> NoReturn:
    sys.stderr.write(f"penchant: {problem}\n")
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
