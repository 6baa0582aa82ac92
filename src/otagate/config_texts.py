"""Kinds of text that a setting may be: each is checked as it is made, and stays the text as typed.

A list is one text with commas, because the environment and flags have nothing else. Pure.
"""

import ipaddress
import re

from otagate import limits

PRODUCT_KEY = rf"[0-9A-Za-z_-]{{1,{limits.product_key_chars_max}}}"


class Address(str):
    """Where to listen: `HOST:PORT`, `[IPv6]:PORT`; port 0 lets the system choose. Stays the text as typed."""

    __slots__ = ()

    def __new__(cls, text: str) -> "Address":
        """Check the text; ValueError if it is no address."""
        host, _, port = text.rpartition(":")
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(text)
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        elif not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", host):
            raise ValueError(text)
        return super().__new__(cls, text)

    @property
    def host(self) -> str:
        """A host name or an IP address, without brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """0 to 65,535."""
        return int(self.rpartition(":")[2])


class File(str):
    """A path, or nothing."""

    __slots__ = ()

    def __new__(cls, text: str = "") -> "File":
        """Any text."""
        return super().__new__(cls, text)


class Networks(str):
    """Addresses and networks with a comma between them: `10.0.0.0/8, ::1`; or nothing."""

    __slots__ = ()

    def __new__(cls, text: str = "") -> "Networks":
        """Check the text; ValueError if a part is no network."""
        made = super().__new__(cls, text)
        if len([ipaddress.ip_network(network) for network in made.networks]) > 64:
            raise ValueError(text)
        return made

    @property
    def networks(self) -> list[str]:
        """One text each."""
        return [part.strip() for part in self.split(",") if part.strip()]


class HostNames(str):
    """Names of this gateway with a comma between them: `ota.example.org, ota`; or nothing."""

    __slots__ = ()

    def __new__(cls, text: str = "") -> "HostNames":
        """Check the text; ValueError if a part is no name, or has a port."""
        made = super().__new__(cls, text)
        if not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", name) for name in made.names):
            raise ValueError(text)
        return made

    @property
    def names(self) -> frozenset[str]:
        """In lower case."""
        return frozenset(part.strip().lower() for part in self.split(",") if part.strip())


class ProductFiles(str):
    """A file for each of some products: `lamp=lamp.pem, pump=pump.pem`; or nothing."""

    __slots__ = ()

    def __new__(cls, text: str = "") -> "ProductFiles":
        """Check the text; ValueError if a part is no product with a file."""
        made = super().__new__(cls, text)
        if not all(re.fullmatch(PRODUCT_KEY, key) and path for key, path in made.files.items()):
            raise ValueError(text)
        return made

    @property
    def files(self) -> dict[str, str]:
        """Product to path."""
        parts = [part.partition("=") for part in self.split(",") if part.strip()]
        return {key.strip(): path.strip() for key, _, path in parts}


class CertificateFiles(str):
    """Certificates with their keys: `lamp.pem=lamp.key, pump.pem=pump.key`; or nothing."""

    __slots__ = ()

    def __new__(cls, text: str = "") -> "CertificateFiles":
        """Check the text; ValueError if a part is no certificate with a key, or one is there twice."""
        made = super().__new__(cls, text)
        files = made.files
        if not all(certificate and key for certificate, key in files) or len(dict(files)) < len(files):
            raise ValueError(text)
        if len(files) > limits.more_certificates_max:
            raise ValueError(text)
        return made

    @property
    def files(self) -> list[tuple[str, str]]:
        """Paths of certificate and key."""
        parts = [part.partition("=") for part in self.split(",") if part.strip()]
        return [(certificate.strip(), key.strip()) for certificate, _, key in parts]


class Template(str):
    """A text with {product} and {device}, between which something parts them that no product contains."""

    __slots__ = ()

    def __new__(cls, text: str) -> "Template":
        """Check the text; ValueError if two devices could have the same name."""
        found = re.fullmatch(r"[!-z|~]*\{(product|device)\}([!-z|~]*)\{(product|device)\}[!-z|~]*", text)
        if found is None or found[1] == found[3] or not re.search(r"[^0-9A-Za-z_-]", found[2]):
            raise ValueError(text)
        return super().__new__(cls, text)
