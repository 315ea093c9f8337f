"""A small web server for one page on this machine: the report of a study that runs, and the study's pictures.

It reads only: GET and HEAD of the page and of the pictures that chains write, nothing else. It listens on the loopback
address, and answers only requests that name it as their host, so that no other site's page can read it (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Sequence
from fnmatch import fnmatchcase
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Self
from urllib.parse import quote, unquote_to_bytes, urlsplit

from imgloop.errors import UserError

HOST, PORT = "127.0.0.1", 8427
PICTURES = (  # what is served besides the page, by its path in the study
    "comparison.png",
    "*/seed*/curves.png",
    "*/seed*/evolution.png",
    "*/seed*/evolution.webp",
    "*/seed*/gen[0-9]*/grid.png",
)
UNDER = "/pictures/"
TYPES = {".png": "image/png", ".webp": "image/webp"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(ThreadingTCPServer):
    """The server of one study, in threads of its own from `with` on until its end.

    port: 0 for any that is free. Raises UserError if it cannot be had. `publish` sets the page.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # a port whose last connections are still closing can be had again

    def __init__(self, study: Path, port: int = PORT):
        if not 0 <= port <= 65535:
            raise UserError(f"--port {port}: give a number from 1024 to 65535, or 0 for any free port.", "port")
        self.study, self.page = study, (b"", '""')  # the page and its ETag, replaced together
        try:
            super().__init__((HOST, port), Handler)
        except OSError as e:
            raise UserError(
                f"--port {port} cannot be had on {HOST} ({(e.strerror or str(e)).lower()}): end what uses it, give "
                "another from 1024 to 65535, or --port 0 for any free one.",
                "port",
            ) from e

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"

    def publish(self, html: str) -> None:
        """Set the page."""
        page = html.encode()
        self.page = page, f'"{hashlib.sha256(page).hexdigest()[:32]}"'

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.1,), name="imgloop-report", daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A reader that has gone is no fault."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection of a Server."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 20  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not is_loopback(hosts[0]):
            return self.refuse(HTTPStatus.FORBIDDEN, f"This page is read as {self.server.address} only.")
        path = urlsplit(self.path).path
        if path == "/":
            return self.send_page()
        name = os.fsdecode(unquote_to_bytes(path.removeprefix(UNDER)))
        found = picture(self.server.study, name) if path.startswith(UNDER) else None
        return self.send_picture(found) if found else self.refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    do_HEAD = do_GET

    def refuse_method(self) -> None:
        self.close_connection = True  # what else the request brings is not read
        self.refuse(HTTPStatus.METHOD_NOT_ALLOWED, "This page can only be read.", Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = refuse_method

    def send_page(self) -> None:
        page, tag = self.server.page
        if self.headers.get("If-None-Match") == tag:
            return self.begin(HTTPStatus.NOT_MODIFIED, ETag=tag)
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(page)), "ETag": tag}
        self.begin(HTTPStatus.OK, **headers, **{"Content-Security-Policy": "frame-ancestors 'none'"})
        if self.command != "HEAD":
            self.wfile.write(page)

    def send_picture(self, path: Path) -> None:
        try:
            file = open(path, "rb")
        except OSError:  # removed since it was looked for
            return self.refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
        with file:
            size = os.fstat(file.fileno()).st_size
            self.begin(HTTPStatus.OK, **{"Content-Type": TYPES[path.suffix], "Content-Length": str(size)})
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def refuse(self, status: HTTPStatus, text: str, **headers: str) -> None:
        body = f"{text}\n".encode()
        headers |= {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
        self.begin(status, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: HTTPStatus, **headers: str) -> None:
        self.send_response(status)
        for name, value in (HEADERS | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        return "imgloop"

    def log_message(self, format: str, *args) -> None:
        """Print nothing: the terminal shows the study."""


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine, with any port or none (a tunnel has one of its own)."""
    return re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", host, re.IGNORECASE) is not None


def picture(study: Path, name: str) -> Path | None:
    """The file of a picture by its path in the study; None for anything else, and for what lies outside of it."""
    parts = name.split("/")
    known = any(_matches(parts, pattern.split("/")) for pattern in PICTURES)
    if not known or any(p in ("", ".", "..") or "\\" in p or "\0" in p for p in parts):
        return None
    try:
        path = study.joinpath(*parts).resolve(strict=True)
        inside = path.is_relative_to(study.resolve()) and path.is_file() and path.suffix in TYPES
    except (OSError, RuntimeError, ValueError):  # missing, circular links, or no name of a file
        return None
    return path if inside else None


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def link(study: Path, path: Path) -> str:
    """The address of a picture on the page."""
    return UNDER + quote(os.fsencode(path.relative_to(study).as_posix()))
