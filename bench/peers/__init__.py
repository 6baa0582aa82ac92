"""Other servers, measured beside the gateway by the same fleet at the same work (protocol.md)."""

from .install import register
from .registry import PEERS, Peer

__all__ = ["PEERS", "Peer", "register"]
