"""`python -m tabveil`: the command line.

Privacy: sees nothing; hands over to `tabveil.cli`.
"""

from tabveil.cli import main

if __name__ == "__main__":
    main()
