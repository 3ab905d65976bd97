"""``prefeval view``: a local web server over a folder of runs, with the standard library alone.

It only reads (GET, HEAD), answers to names that a foreign page cannot have (DNS rebinding), and
gives out only what `view_site` names. Every page runs its own script and no other.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import os
import socket
import socketserver
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from prefeval.harness.serve.report import Reports
from prefeval.harness.serve.runs import REPORT, Site
from prefeval.harness.signals import Stopped
from prefeval.records import PrefevalError
from prefeval.reports import live_page

PORT = 8765
IDLE = 60.0  # seconds after which a silent connection is closed
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
FIGURE = f"{NOTHING}; style-src 'unsafe-inline'; img-src data:; sandbox"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".pdf": "application/pdf",
}


class Refused(Exception):
    """An answer that is no page."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one `Site`. ``names`` are the hosts, beside addresses, that requests may name."""

    daemon_threads = True
    allow_reuse_port = False  # a second server on the same port would answer every other request

    def __init__(self, root: Path, host: str, port: int) -> None:
        self.site, self.reports = Site(root), Reports()
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        """Where a browser finds the runs, or the run where it was given alone."""
        host = str(self.server_address[0])
        base = f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"
        rows = self.site.runs() if self.site.is_run else []
        return base + (rows[0]["href"] if rows else "/")

    def server_bind(self) -> None:
        """Without the look-up of this host's full name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; anything else is one line."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"prefeval view: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "prefeval", ""
    timeout = IDLE

    def do_GET(self) -> None:
        """Answer, or say in a line why not."""
        try:
            self._require_own_host()
            self._answer(self.path.partition("?")[0])
        except Refused as refused:
            self._send_text(refused.status, str(refused))
        except PrefevalError as error:
            self._send_text(HTTPStatus.NOT_FOUND, str(error))
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            self._send_text(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}; load the page again")

    do_HEAD = do_GET

    def _refuse_method(self) -> None:
        self.close_connection = True  # its body is not read
        self._send_text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", Allow="GET, HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _require_own_host(self) -> None:
        """A page of another site, whose name was made to lead here, names itself as the host."""
        given = self.headers.get_all("Host") or []
        try:
            host = urlsplit(f"//{given[0]}").hostname if len(given) == 1 else None
        except ValueError:
            host = None
        if not (host and (host in self.server.names or _is_address(host))):
            raise Refused(HTTPStatus.FORBIDDEN, "this server answers to localhost and addresses")

    def _answer(self, path: str) -> None:
        parts = _parts(path)
        match parts:
            case []:
                self._send_page(live_page.index(self.server.site.runs()))
            case ["api", "runs"]:
                self._send_json(self.server.site.runs())
            case ["api", "run", *names]:
                name = "/".join(names)
                self._send_json(self.server.site.detail(name, self._folder(name)))
            case ["run", *names]:
                self._answer_run(names, ends=path.endswith("/"))
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path}")

    def _answer_run(self, names: list[str], *, ends: bool) -> None:
        """A run's page, or one of its files: a run's name may have parts, no run lies in one."""
        site = self.server.site
        folders = site.folders()
        for cut in range(1, len(names) + 1):
            if folder := folders.get("/".join(names[:cut])):
                break
        else:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no run {'/'.join(names)}")
        name, rest = "/".join(names[:cut]), "/".join(names[cut:])
        if not rest and not ends:
            self._redirect(self.path.partition("?")[0] + "/")
        elif rest == REPORT or (not rest and site.is_over(name, folder)):
            self._send_report(name, folder, must=bool(rest))
        elif rest in ("", "live"):
            self._send_page(live_page.run(site.detail(name, folder)))
        elif found := site.files(folder).get(rest):
            self._send(HTTPStatus.OK, found.read_bytes(), TYPES[found.suffix], FIGURE)
        else:
            raise Refused(HTTPStatus.NOT_FOUND, f"run {name} has no {rest}")

    def _send_report(self, name: str, folder: Path, *, must: bool) -> None:
        """The report; where there can be none (an ``eval``), the live page unless it ``must``."""
        try:
            content = self.server.reports.get(folder)
        except PrefevalError:
            if must:
                raise
            self._send_page(live_page.run(self.server.site.detail(name, folder)))
            return
        policy = f"{self.server.reports.policy()}; frame-ancestors 'none'"
        self._send(HTTPStatus.OK, content, TYPES[".html"], policy)

    def _folder(self, name: str) -> Path:
        if folder := self.server.site.folder(name):
            return folder
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no run {name}")

    # -- answers ------------------------------------------------------------------------------

    def _send_page(self, page: live_page.Page) -> None:
        self._send(HTTPStatus.OK, page.html.encode(), TYPES[".html"], page.policy)

    def _send_json(self, value: Any) -> None:
        """JSON under a tag: what the asker has already is not sent again."""
        body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        same = self.headers.get("If-None-Match") == tag
        status = HTTPStatus.NOT_MODIFIED if same else HTTPStatus.OK
        self._send(status, b"" if same else body, TYPES[".json"], NOTHING, ETag=tag)

    def _send_text(self, status: HTTPStatus, text: str, **headers: str) -> None:
        body = f"{text}\n".encode(errors="replace")
        self._send(status, body, "text/plain; charset=utf-8", NOTHING, **headers)

    def _redirect(self, path: str) -> None:
        self._send(HTTPStatus.FOUND, b"", TYPES[".md"], NOTHING, Location=path)

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str, policy: str, **headers: str
    ) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Security-Policy": policy, **HEADERS, **headers}
        for name, value in named.items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (a request that is none) has these headers too."""
        self.close_connection = True
        self._send_text(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal stays quiet."""


def _parts(path: str) -> list[str]:
    """A path's parts, each decoded by itself: an encoded slash separates nothing.

    Raises ``Refused`` for parts that no name can be.
    """
    parts = [os.fsdecode(unquote_to_bytes(part)) for part in path.split("/") if part]
    if any(p in (".", "..") or set(p) & {"/", "\\", "\0"} for p in parts):
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
    return parts


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def open_server(root: Path, host: str, port: int | None) -> Server:
    """A server on ``port``; without one on `PORT`, or on a free one where that is taken.

    Raises ``PrefevalError`` for a folder that is not there and an address that cannot be had.
    """
    if not root.is_dir():
        raise PrefevalError(f"there is no folder {root}; name a run, or the folder of your runs")
    try:
        return Server(root, host, PORT if port is None else port)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return open_server(root, host, 0)
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is in use; choose another --port, or 0 for a free one"
        elif error.errno == errno.EACCES:
            why = f"port {port} is not yours to use; choose a --port above 1023"
        else:
            why = f"cannot serve on {host} ({error.strerror or error}); choose another --host"
        raise PrefevalError(why) from error
    except OverflowError as error:
        raise PrefevalError(f"there is no port {port}; choose a --port up to 65535") from error


def view(
    root: Path, *, host: str, port: int | None, say: Callable[[str], None], browse: bool
) -> int:
    """Serve until Ctrl-C, which is the end that is meant: exit code 0."""
    with open_server(root, host, port) as server:
        try:
            count = len(server.site.folders())
            say(f"{count} run{'' if count == 1 else 's'} in {root}: {server.url} (Ctrl-C ends)")
            if not _is_loopback(host):
                say("anyone who reaches this address can read these runs")
            if browse:
                import webbrowser

                webbrowser.open(server.url)
            server.serve_forever()
        except (KeyboardInterrupt, Stopped):
            return 0
    return 0


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
