"""The device's side of the protocol: see docs/devices.md."""
