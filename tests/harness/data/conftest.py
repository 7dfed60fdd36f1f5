"""A server on this machine that stands in for Google Drive: it keeps, cuts, refuses and resumes as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from harness.data.drive import Drive


@dataclass
class FakeDrive:
    """What the server has and does. `faults` maps an id to a status, or to "cut" or "no ranges"."""

    base_url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, int | str] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def drive(self) -> Drive:
        """The way to it, without patience."""
        return Drive(base_url=self.base_url, retries=0, connect_timeout_s=5, read_timeout_s=5)


@pytest.fixture
def fake_drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDrive]:
    """A running server; what it was asked for is in `requests`, with the range where there was one."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = FakeDrive()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            (identifier,) = parse_qs(urlsplit(self.path).query)["id"]
            asked, fault = self.headers.get("Range"), fake.faults.get(identifier)
            fake.requests.append((identifier, asked))
            if isinstance(fault, int) or identifier not in fake.files:
                self.send_error(fault if isinstance(fault, int) else 404)
                return
            content = fake.files[identifier]
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and fault != "no ranges" else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", '"the same file"')
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            end = len(content) // 2 if fault == "cut" else len(content)
            with contextlib.suppress(ConnectionError):  # The client may have seen enough.
                self.wfile.write(content[start:end])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.base_url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def closed_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a port of this machine where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_port}"
