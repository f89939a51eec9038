"""A local web server that simulates faults of networks and servers."""

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyServer(ThreadingHTTPServer):
    """
    Attributes:
        files: path -> bytes.
        ranges: whether it can begin in the middle.
        cuts: after how many bytes the next answers break off, in turn; None sends all.
        errors: statuses of the next answers, in turn.
        tag: the ETag.
        shift: by how much the part differs from the one that was asked for.
        stalls_after: after how many bytes an answer waits until ``released`` is set; None: never.
        answer: instead of all that, called with the range that is asked for; status, headers and body.
        requests: (path, Range or None) of all requests.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.ranges, self.cuts, self.errors, self.tag, self.requests = {}, True, [], [], '"1"', []
        self.answer = None
        self.shift, self.stalls_after, self.released = 0, None, threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving():
    server = FaultyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.answer:
            self.close_connection = True
            status, headers, body = server.answer(asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
            return
        if server.errors:
            self.send_error(server.errors.pop(0))
            return
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start += server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        with contextlib.suppress(ConnectionError):
            rest = data[start:][:cut]
            if server.stalls_after is not None:
                self.wfile.write(rest[: server.stalls_after])
                rest = rest[server.stalls_after :]
                server.released.wait(60)
            self.wfile.write(rest)
        self.close_connection = True

    def log_message(self, *args):
        pass
