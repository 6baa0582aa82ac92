"""The device protocol on the wire: messages, frames, handshake. Pure; see docs/protocol.md."""
