"""Durations counted in buckets."""

from collections.abc import Iterable

def buckets_of(values: Iterable[int]) -> dict[int, int]: ...
