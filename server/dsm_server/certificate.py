"""The node's certificate and its key: checked at the start, taken again when they were renewed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from dsm.errors import UsageError

log = logging.getLogger(__name__)


class Certificate:
    """A PEM file with the certificate, which its chain may follow, and one with the key.

    Raises `UsageError` for files that cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._pair = self._read()
        self._check()

    def credentials(self) -> grpc.ServerCredentials:
        """Of a server, which asks before each handshake whether there is something new."""
        return grpc.dynamic_ssl_server_credentials(
            grpc.ssl_server_certificate_configuration([self._pair]),
            self._renewed,  # type: ignore[arg-type]  # it may return `None`
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """`None`: go on with what there is. Called in a thread of gRPC's."""
        try:
            pair = self._read()
            if pair == self._pair:
                return None
            self._pair = pair  # also of half a renewal, which is to be told once
            self._check()
        except UsageError as error:
            log.warning("the certificate is not renewed: %s", error)
            return None
        log.info("the certificate was renewed from %s", self._cert)
        return grpc.ssl_server_certificate_configuration([pair])

    def _read(self) -> tuple[bytes, bytes]:
        """Key and certificate."""
        return _pem("tls_key", self._key), _pem("tls_cert", self._cert)

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_verify_locations(self._cert)
        except ssl.SSLError:
            raise _unusable("tls_cert", self._cert, "no PEM certificate in it") from None
        try:
            context.load_cert_chain(self._cert, self._key, password="")  # asks no terminal
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"not the key of the certificate in {str(self._cert)!r}"
            else:
                why = f"no PEM key without passphrase in it ({error.reason or error})"
            raise _unusable("tls_key", self._key, why) from None


def _pem(option: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unusable(option, file, error.strerror or str(error)) from None


def _unusable(option: str, file: Path, why: str) -> UsageError:
    what = {"tls_cert": "the node's certificate", "tls_key": "the certificate's key"}[option]
    flag = f"--{option.replace('_', '-')}"
    return UsageError(f"{option} ({flag}) {str(file)!r}: {why}; name the PEM file of {what}")
