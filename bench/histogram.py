"""Durations in buckets, as the compiled fleet counts them, and what is read from them.

Bucket of a value below 128: the value. Above: 64 * shift + (value >> shift), with the shift that leaves 64 to
127. So a bucket is at most 1.6 % wide, and a percentile is told by the upper edge of its bucket: never too
small, at most 1.6 % too large.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


def bucket_of(value: int) -> int:
    """The bucket that counts a value."""
    shift = max(value.bit_length() - 7, 0)
    return 64 * shift + (value >> shift)


def upper_edge(bucket: int) -> int:
    """The largest value of a bucket."""
    if bucket < 128:
        return bucket
    shift = bucket // 64 - 1
    return ((bucket - 64 * shift + 1) << shift) - 1


@dataclass
class Histogram:
    """Counted values, in nanoseconds where they are durations."""

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0
    largest: int = 0
    total: int = 0

    @classmethod
    def of(cls, values: Iterable[int]) -> "Histogram":
        """Of values at hand."""
        histogram = cls()
        for value in values:
            histogram.add(value)
        return histogram

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str, Any]]) -> "Histogram":
        """Of what several processes report (`Fleet.histograms`, also after JSON)."""
        merged = cls()
        for part in parts:
            for bucket, count in part["buckets"].items():
                merged.buckets[int(bucket)] = merged.buckets.get(int(bucket), 0) + count
            merged.count += part["count"]
            merged.total += part["total"]
            merged.largest = max(merged.largest, part["largest"])
        return merged

    def add(self, value: int) -> None:
        """Count one value."""
        bucket = bucket_of(value)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    def percentile(self, percent: float) -> int:
        """The value that `percent` of all do not exceed; 0 of nothing."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return min(upper_edge(bucket), self.largest)
        return self.largest

    def summary_ms(self) -> dict[str, float]:
        """What is told of durations: p50 to the largest, in milliseconds."""
        points = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
        summary = {name: self.percentile(percent) / 1e6 for name, percent in points.items()}
        return {**summary, "max": self.largest / 1e6}
