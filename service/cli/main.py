"""The entry point of `penchant`. It reports missing packages, because the command line needs an extra."""

import sys
from typing import Final

NEEDS: Final = "the command line needs the server's packages: pip install 'penchant[server,cpu]'"


def main() -> None:
    """Run the command in `sys.argv`."""
    try:
        from penchant.service.cli.app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("penchant"):
            raise
        sys.stderr.write(f"penchant: {missing.name} is not installed; {NEEDS}\n")
        raise SystemExit(2) from None
    app()


if __name__ == "__main__":
    main()
