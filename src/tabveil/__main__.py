"""`python -m tabveil`, and what the command `tabveil` runs: the command line.

Privacy: sees nothing; hands over to `tabveil.cli`.
"""

import os

from tabveil.errors import INTERRUPTED_EXIT_CODE


def main() -> None:
    """Entry point of `tabveil`; Ctrl-C while its libraries are still loading ends it as quietly as later."""
    try:
        from tabveil.cli import main as run
    except KeyboardInterrupt:
        os.write(2, b"tabveil: interrupted; nothing was charged.\n")
        os._exit(INTERRUPTED_EXIT_CODE)
    run()


if __name__ == "__main__":
    main()
