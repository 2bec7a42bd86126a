"""A replica that serves, and whose metrics page is broken: `replica.py PORT html|truncated|error`."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}'
HTML = b"<!DOCTYPE html>\n<html><body><h1>It works!</h1></body></html>\n"
PAGE = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_runn"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, kind, body, length=None):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, "text/plain", b"ok")
        elif sys.argv[2] == "html":
            self.answer(200, "text/html", HTML)
        elif sys.argv[2] == "error":
            self.answer(500, "text/plain", b"internal error")
        else:
            # more is announced than comes
            self.answer(200, "text/plain; version=0.0.4", PAGE, 10_000)
            self.close_connection = True

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, "application/json", ANSWER)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
