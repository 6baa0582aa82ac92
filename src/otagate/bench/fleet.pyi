"""A fleet of simulated devices in one process."""

from collections.abc import Mapping, Sequence
from typing import Any

class Fleet:
    """Devices `first` to `first + count - 1`, by number; `prefix` and number make the identifier, and "s" and
    the number in 31 digits the secret. Device i has links[i % len(links)]. Nothing moves but in `run`."""

    def __init__(
        self,
        *,
        first: int,
        count: int,
        links: Sequence[str],
        prefix: str = "d",
        product: str = "bench",
        version: str = "1.0.0",
        seed: int = 1,
    ) -> None: ...
    def configure(
        self,
        *,
        address: str,
        port: int,
        work: str = "idle",
        login: bool = True,
        verify: bool = True,
        discard: bool = False,
        reconnect: bool = True,
        reports: bool = True,
        depth: int = 1,
        opening_max: int = 256,
        read_bytes: int = 65536,
        retry_ms: int = 100,
        reboot_ms: int = 0,
        chunk_size: int = 65536,
        image_size: int = 0,
        rate: float = 0.0,
        source: str = "127.1.0.1",
        sources: int = 1000,
        faults: Mapping[str, float] | None = None,
        request: bytes = b"",
    ) -> None: ...
    def connect(self, count: int | None = None) -> None: ...
    def disconnect(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def run(self, seconds: float) -> None: ...
    def mark(self) -> int: ...
    def reset(self) -> None: ...
    def faults(self) -> tuple[int, ...]: ...
    def counters(self) -> dict[str, Any]: ...
    def histograms(self) -> dict[str, dict[str, Any]]: ...
