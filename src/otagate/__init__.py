"""otagate: a firmware-upgrade (OTA) gateway. README.md walks the files in reading order."""

__version__ = "0.1.0"
