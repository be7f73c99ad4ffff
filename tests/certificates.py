"""Certificates for the tests: a CA of their own, and what it signs, as PEM files."""

from __future__ import annotations

from pathlib import Path

import trustme


class Authority:
    """A CA; `ca` is its file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name = folder, name
        self._ca = trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, *hosts: str) -> tuple[Path, Path]:
        """Files with a certificate for these hosts and with its key; those of before are gone."""
        issued = self._ca.issue_cert(*hosts)
        cert, key = (self._folder / f"{self._name}-{what}.pem" for what in ("cert", "key"))
        cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return cert, key


def tls(files: tuple[Path, Path]) -> tuple[str, ...]:
    """For `dsm-node`'s command line."""
    return "--tls-cert", str(files[0]), "--tls-key", str(files[1])
