"""placeholder"""


def register(commands) -> None:
    """."""
