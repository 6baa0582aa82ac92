"""Durable state: products, devices, firmware, batches and device upgrades.

`interface` is what the rest of otagate sees; `lmdb` and `memory` are its engines; `blobs` keeps images.
"""
