"""The certificate that clients see, read again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from typing import NoReturn

import structlog

from ..errors import StartupError
from ..options import DoorCertificate

PAUSE = 2.0  # seconds between looks at the files: the kubelet writes them a minute late anyway

log = structlog.get_logger()


class Door:
    """A context whose handshakes take the latest certificate; connections live on with theirs."""

    def __init__(self, files: DoorCertificate) -> None:
        """StartupError for files that are no certificate and its key."""
        self._files = files
        try:
            self._seen = self._read()
            self._current = self._load()
        except (OSError, ssl.SSLError) as error:
            raise StartupError(
                f"--tls-certificate {files.certificate} and --tls-key {files.key}: expected PEM "
                f"files of a certificate and its key: {error}"
            ) from error
        # Of a handshake with this one, the callback puts the latest in its place.
        self.context = self._load()
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._current

    async def follow(self) -> NoReturn:
        """Reads the files again and again. What cannot be used is logged; the last one stays."""
        while True:
            await asyncio.sleep(PAUSE)
            try:
                seen = await asyncio.to_thread(self._read)
                if seen == self._seen:
                    continue
                # Whatever is wrong with these files is not tried again before they change.
                self._seen = seen
                self._current = await asyncio.to_thread(self._load)
            except (OSError, ssl.SSLError) as error:
                log.error("the new certificate of the door is not used", why=str(error))
            else:
                log.info("the door has a new certificate")

    def _read(self) -> tuple[bytes, bytes]:
        return self._files.certificate.read_bytes(), self._files.key.read_bytes()

    def _load(self) -> ssl.SSLContext:
        """An error if key and certificate do not belong together, as while they are written."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._files.certificate, self._files.key)
        return context
