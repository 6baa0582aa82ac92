"""The operators' surface: the HTTP API and what stands on it. It knows the gateway by its service alone."""

from otagate.admin.app import build
from otagate.admin.server import serve

__all__ = ["build", "serve"]
