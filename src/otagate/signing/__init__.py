"""Signed firmware (docs/signing.md): the canonical manifest, and Ed25519 keys that sign and check it.

Whoever builds a release signs it, far from the gateway; the gateway and the devices check. So this room
knows no gateway, no store and no device.
"""
