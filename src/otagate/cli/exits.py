"""Exit codes of `otagate`, the same for every command."""

from enum import IntEnum

from otagate.errors import OtagateError


class Exit(IntEnum):
    """What a script may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERNAL = 5
    INTERRUPTED = 130


EPILOG = """exit codes:
  0    done
  1    what was asked for failed (a device of the batch, the demo, the gateway itself)
  2    the command line or the configuration is wrong
  3    the gateway cannot be reached
  4    the gateway refused (4xx)
  5    the gateway failed inside (5xx)
  130  interrupted
"""


class CommandError(OtagateError):
    """Ends the command with this one line on stderr and this code."""

    def __init__(self, message: str, exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
