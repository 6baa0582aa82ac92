"""MD5 of many streams at once, a stream in each lane of the processor's vectors."""

from collections.abc import Sequence

def variants() -> list[str]: ...
def md5_of_streams(
    streams: Sequence[bytes], rounds: int | None = None, variant: str | None = None
) -> list[bytes]: ...
