"""`python -m otagate`, and the console script `otagate`."""

import sys

from otagate import cli


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
