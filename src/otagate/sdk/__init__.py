"""The device's side of the protocol: docs/devices.md is its guide, docs/example_device.py a whole program."""

from otagate.sdk.agent import Agent
from otagate.sdk.client import Client, Reconnect, Refused
from otagate.sdk.devices import Device, FileDevice, SimulatedDevice, UpdateFailed
from otagate.sdk.effects import Note
from otagate.sdk.links import LinkLost

__all__ = [
    "Agent",
    "Client",
    "Device",
    "FileDevice",
    "LinkLost",
    "Note",
    "Reconnect",
    "Refused",
    "SimulatedDevice",
    "UpdateFailed",
]
