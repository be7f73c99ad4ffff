"""TLS or plaintext: from a session's options to its channels, and what a failed handshake means.

    the url's host   nothing said           ca=FILE        tls=True               insecure=True
    loopback         plaintext              TLS, that CA   TLS, gRPC's root CAs   plaintext
    any other        TLS, gRPC's root CAs   TLS, that CA   TLS, gRPC's root CAs   plaintext

gRPC's root CAs are Mozilla's, which come with it, unless `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH` in the
environment names others. Host names, protocol versions and ALPN are its affair.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from grpc import aio

from dsm.errors import UsageError
from dsm.wire.address import is_loopback

_REFUSED = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate does not verify; "
    "name the PEM file of the CA that signed it: ca=FILE (--ca)",
    "Hostname Verification Check failed": "its certificate is for other host names than this one; "
    "use one of those in the url, or make it a certificate for this one too",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; give it a certificate, or connect with "
    "insecure=True (--insecure) if the network is trusted",
}
"""Of what gRPC and its TLS library say, the words for what the next attempt would meet again."""

_HUNG_UP = "Socket closed"
"""What gRPC says when a node with TLS is addressed in plaintext, but not only then."""


@dataclass(frozen=True, slots=True)
class Security:
    """How all channels of a session are secured."""

    credentials: grpc.ChannelCredentials | None
    """`None`: plaintext."""

    @classmethod
    def of(cls, host: str, *, ca: str | Path, tls: bool, insecure: bool) -> Self:
        """Raises `UsageError` for options that exclude each other and a file that holds no CA."""
        if insecure and (ca or tls):
            raise UsageError(
                "insecure=True (--insecure) means plaintext; "
                "leave it out, or ca (--ca, DSM_CA) and tls (--tls)"
            )
        if ca:
            return cls(grpc.ssl_channel_credentials(_roots(Path(ca))))
        plaintext = insecure or (is_loopback(host) and not tls)
        return cls(None if plaintext else grpc.ssl_channel_credentials())

    def channel(self, address: str, options: list[tuple[str, int]]) -> aio.Channel:
        if self.credentials is None:
            return aio.insecure_channel(address, options)
        return aio.secure_channel(address, self.credentials, options)

    def not_reached(self, details: str, retry_s: float) -> str:
        """Of a node that gRPC could not connect to, for these reasons: what is probably so."""
        cause = refusal(details)
        if not cause:
            cause = f"not reached, tried for {retry_s:g} s; is a node running there?"
            if self.credentials is None and _HUNG_UP in details:
                cause += " If it has TLS, connect with ca=FILE or tls=True (--ca, --tls)"
        return f"{cause} ({details})" if details else cause


def refusal(details: str) -> str:
    """What it is and what to do, where trying again is of no use; else empty."""
    return next((cause for words, cause in _REFUSED.items() if words in details), "")


def _roots(file: Path) -> bytes:
    """The certificates in a PEM file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        return file.read_bytes()
    except OSError as error:  # also what `ssl` finds wrong
        why = "no PEM certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"ca (--ca, DSM_CA) {str(file)!r}: {why}; name the PEM file of the CA"
        ) from None
