"""The server around a function's WSGI application: what OpenFaaS expects of a function's container.

    python3 watchdog.py MODULE:NAME     for example handler:app, the module being found on PYTHONPATH

In: requests from a gateway on port 8080, probes of /_/health and /_/ready, SIGTERM. Out: the application's replies, and
429, 500 and 504 of its own, marked X-OpenFaaS-Internal. The settings are those of the template go-http: read its README.
HTTP itself is gunicorn's, with one process and a thread for each request that runs.

The templates python3-http and shell have the same file; a test keeps the copies equal.
"""

import functools
import importlib
import itertools
import math
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import gunicorn.app.base
import gunicorn.arbiter

PORT = 8080  # where gateways call functions
UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
MARK = ("X-OpenFaaS-Internal", "watchdog")


def refuse(name, legal):
    sys.exit(f"{name}={os.environ.get(name)!r}: must be {legal}")


def seconds(text):
    """Reads Go's durations (1m30s) and whole seconds; None is neither."""
    if re.fullmatch(r"\d{1,5}", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?(h|ms|m|s))+", text):
        return None
    return sum(float(n) * UNITS[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)(h|ms|m|s)", text))


def duration(name, default):
    value = seconds(os.environ.get(name) or default)
    if value is None or value > 86400:
        refuse(name, "a duration such as 30s or 1m30s, or whole seconds, up to 24h")
    return value


def integer(name, default, low, high):
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        refuse(name, f"a whole number from {low} to {high}")
    return int(text)


class Settings:
    def __init__(self):
        if integer("port", PORT, 1, 65535) != PORT:
            refuse("port", f"{PORT}: gateways call functions there")
        self.write = duration("write_timeout", "30s")
        self.exec = duration("exec_timeout", f"{min(30000, int(self.write * 1000))}ms")
        if not os.environ.get("write_timeout"):
            self.write = max(self.write, self.exec)
        if self.exec > self.write:
            refuse("exec_timeout", f"at most write_timeout ({self.write:g}s)")
        self.drain = duration("healthcheck_interval", "2s")
        self.inflight = integer("max_inflight", 0, 0, 1000)
        # A thread takes some 100 KB. A request beyond them waits, unless max_inflight refuses it.
        self.threads = self.inflight or 64


class Watchdog:
    """The WSGI application that gunicorn calls, on a thread of its own for each request."""

    def __init__(self, app, settings, draining):
        self.app, self.settings, self.draining = app, settings, draining
        self.pool = ThreadPoolExecutor(settings.threads)
        self.lock = threading.Lock()  # guards running
        self.running = 0

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/_/"):
            return self.probe(environ["PATH_INFO"], start_response)
        with self.lock:
            if self.settings.inflight and self.running >= self.settings.inflight:
                return self.busy(start_response)
            self.running += 1
        began, (limit, by) = time.monotonic(), self.limit(environ)
        environ["waggle.timeout"] = limit or None
        future = self.pool.submit(self.call, environ)
        try:
            status, headers, chunks, close = future.result(limit or None)
        except Exception:
            if limit and time.monotonic() - began >= limit:
                future.add_done_callback(self.late)
                return plain(start_response, "504 Gateway Timeout", f"the function did not answer within {limit:g}s, {by}\n", MARK)
            self.done()
            print(f"handler failed, call_id={environ.get('HTTP_X_CALL_ID', '')}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            return plain(start_response, "500 Internal Server Error", "the function failed\n", MARK)
        start_response(status, [*headers, ("X-Duration-Seconds", f"{time.monotonic() - began:.6f}")])
        return self.stream(chunks, close)

    def limit(self, environ):
        """exec_timeout, or what the caller asks for with X-Timeout if that is less, and which of the two."""
        asked = seconds(environ.get("HTTP_X_TIMEOUT", ""))
        if not asked or self.settings.exec and asked > self.settings.exec:
            return self.settings.exec, "its exec_timeout"
        return asked, "the caller's X-Timeout"

    def call(self, environ):
        started, written = [], []

        def start_response(status, headers, exc_info=None):
            started[:] = status, headers
            return written.append

        body = self.app(environ, start_response)
        chunks = iter(body)
        first = list(itertools.islice(chunks, 1))  # a generator calls start_response only now
        return started[0], started[1], itertools.chain(written, first, chunks), getattr(body, "close", lambda: None)

    def stream(self, chunks, close):
        try:
            yield from chunks
        finally:
            close()
            self.done()

    def late(self, future):
        self.done()
        if not future.exception():
            future.result()[3]()

    def done(self):
        with self.lock:
            self.running -= 1

    def probe(self, path, start_response):
        if path not in ("/_/health", "/_/ready"):
            return plain(start_response, "404 Not Found", "not found\n")
        if self.draining.is_set():
            return plain(start_response, "503 Service Unavailable", "draining\n")
        if path == "/_/ready" and self.settings.inflight and self.running >= self.settings.inflight:
            return self.busy(start_response)
        return plain(start_response, "200 OK", "OK", ("Cache-Control", "no-store"))

    def busy(self, start_response):
        text = f"max_inflight of {self.settings.inflight} requests reached\n"
        return plain(start_response, "429 Too Many Requests", text, MARK, ("Retry-After", "1"))


def plain(start_response, status, text, *headers):
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))), *headers])
    return [text.encode()]


class Arbiter(gunicorn.arbiter.Arbiter):
    """Serves on for a while after SIGTERM, so that gateways hear of the end first."""

    def handle_term(self):
        self.app.draining.set()
        time.sleep(self.app.settings.drain)
        super().handle_term()


class Server(gunicorn.app.base.BaseApplication):
    def __init__(self, module, name):
        self.settings, self.draining = Settings(), multiprocessing.Event()
        self.load = functools.cache(lambda: Watchdog(getattr(importlib.import_module(module), name), self.settings, self.draining))
        super().__init__()

    def load_config(self):
        for name, value in {
            "bind": f"0.0.0.0:{PORT}",
            "loglevel": "warning",
            "workers": 1,
            "worker_class": "gthread",
            # Two more for probes.
            "threads": self.settings.threads + 2,
            "worker_tmp_dir": "/dev/shm",
            "graceful_timeout": math.ceil(self.settings.write),
            # Longer than a gateway keeps a connection, so that it is the gateway that closes it.
            "keepalive": 600,
            # gunicorn would kill a worker that is late; the image's health check tells slow from dead.
            "timeout": 0,
        }.items():
            self.cfg.set(name, value)

    def run(self):
        Arbiter(self).run()


if __name__ == "__main__":
    Server(*sys.argv[1].split(":")).run()
