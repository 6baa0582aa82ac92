"""Digests of images and chunks, compiled, without the GIL: MD5, SHA-256 and xxh32 in one pass."""

from otagate.hashing.chunks import chunk_digests_of_file, xxh32, xxh32_of_file
from otagate.hashing.images import ImageHasher

__all__ = ["ImageHasher", "chunk_digests_of_file", "xxh32", "xxh32_of_file"]
