"""A server on this machine that speaks as OpenAI-compatible ones do, well or badly, as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Heard:
    """What one call said: its body, headers, path, and when it came."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    at: float

    @property
    def told(self) -> dict[str, Any]:
        """What the judge was given to judge."""
        return json.loads(self.body["messages"][1]["content"])


@dataclass
class Server:
    """`answers(heard, number)` gives a label, or a whole response: (status, headers, body); a number hangs so long."""

    answers: Callable[[Heard, int], Any]
    heard: list[Heard] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


def said(text: str | None, ended: str = "stop") -> dict[str, Any]:
    """A chat completion."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": ended}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2},
    }


@contextmanager
def serving(answers: Callable[[Heard, int], Any]) -> Iterator[Server]:
    """A server that is gone when the context ends."""
    server = Server(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard = Heard(body, dict(self.headers), self.path, time.monotonic())
            with server.lock:
                server.heard.append(heard)
                number = len(server.heard)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                self._answer(server.answers(heard, number))
            finally:
                with server.lock:
                    server.at_once -= 1

        def _answer(self, found: Any) -> None:
            if found is None:  # closes the connection without a word
                self.close_connection = True
                self.connection.close()
                return
            if isinstance(found, float):
                time.sleep(found)
                found = "refused"
            status, headers, content = found if isinstance(found, tuple) else (200, {}, said(found))
            raw = (content if isinstance(content, str) else json.dumps(content)).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                pass  # whoever asked is gone

        def log_message(self, *told: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
