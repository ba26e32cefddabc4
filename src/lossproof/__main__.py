"""The program ``lossproof``, which is ``python -m lossproof``, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; to be interrupted while it is being loaded is no failure of it."""
    try:
        from lossproof.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
