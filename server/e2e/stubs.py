"""Other parties that the server under test meets: a receiver of calls, and a wire that breaks.

Both listen on a loopback port of the system's choice, each connection on a thread of its own.
"""
import http.server
import json
import queue
import socket
import threading
import typing


class Received(typing.NamedTuple):
    method: str
    path: str
    headers: typing.Any
    body: bytes

    def json(self):
        return json.loads(self.body)


class Receiver:
    """An HTTP server that answers with what `answer(received)` returns, (status, JSON or bytes), and keeps what it was
    sent."""

    def __init__(self, answer=lambda received: (200, {})):
        self.received = queue.Queue()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                received = Received(self.command, self.path, self.headers, body)
                status, content = answer(received)
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                receiver.received.put(received)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def next(self, seconds=60):
        """The next call, waited for."""
        try:
            return self.received.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"expected a call of {self.url} within {seconds} s, found none") from None

    def count(self):
        """Calls that nobody has taken with `next`."""
        return self.received.qsize()


class CuttingProxy:
    """A wire to `target` ("host:port") that breaks for the first `cuts` connections: the request goes through, and as
    soon as the server answers, the client's side is closed without a byte of the answer."""

    def __init__(self, target, cuts=1):
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.cuts = cuts
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # Only a shutdown wakes the thread that accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._carry, args=(client, self.connections <= self.cuts), daemon=True).start()

    def _carry(self, client, cut):
        server = socket.create_connection(self.target)
        threading.Thread(target=self._pipe, args=(client, server), daemon=True).start()
        if cut:
            server.recv(1)  # comes when the request has been served
            client.shutdown(socket.SHUT_RDWR)
            server.close()
        else:
            self._pipe(server, client)

    @staticmethod
    def _pipe(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has gone
