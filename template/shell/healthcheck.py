"""The image's HEALTHCHECK: it tells a server that hangs from one that is slow. The comment of package liveness in the
template go-http has the rules and their reasons; this is the same in Python, for images without a compiler.

The templates python3-http and shell have the same file; a test keeps the copies equal.
"""

import glob
import os
import select
import socket
import sys
import time

MARKER = "/dev/shm/liveness"
SILENT, ANSWERED, FAILED = "", "answered", "failed"
LOOKS = {SILENT: 20, ANSWERED: 110, FAILED: 5}  # without an answer, until it is judged
LOOK_EVERY, ASK_EVERY, ASK_TIMEOUT, LINGER_FOR = 0.2, 2, 60, 300


def load():
    try:
        with open(MARKER) as f:
            return f.read()
    except OSError:
        return SILENT


def store(past):
    try:
        with open(MARKER, "w") as f:
            f.write(past)
    except OSError:
        pass  # then each check is the first one, which is right and costs more of them


def at_work():
    """Whether a thread of any other process runs or waits for a processor (R), or waits for a device (D)."""
    own = f"/proc/{os.getpid()}/"
    for file in glob.iglob("/proc/[0-9]*/task/[0-9]*/stat"):
        if file.startswith(own):
            continue
        try:
            with open(file, "rb") as f:
                if f.read().rpartition(b")")[2][1:2] in (b"R", b"D"):
                    return True
        except OSError:
            pass  # it has ended since
    return False


class Question:
    """One GET over a connection of its own, of which any answer will do."""

    def __init__(self):
        self.asked, self.sent = time.monotonic(), False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", 8080))

    def answered(self):
        """Waits until the next look is due: True is an answer, False none yet; an OSError is a refusal."""
        readable, writable, _ = select.select([self.socket], [] if self.sent else [self.socket], [], LOOK_EVERY)
        if writable:
            self.socket.send(b"GET /_/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            self.sent = True
            return self.answered()
        if readable and not self.socket.recv(16).startswith(b"HTTP/1."):
            raise OSError("the connection was closed without an answer")
        if not readable and time.monotonic() - self.asked > ASK_TIMEOUT:
            raise OSError("no answer")
        return bool(readable)


def check():
    """Returns the reason to fail, or None."""
    before, end = load(), time.monotonic() + LINGER_FOR
    while True:
        question, refusal, looks, busy = Question(), "no answer", 0, 0
        while looks < LOOKS[before]:
            try:
                if question.answered():
                    break
            except OSError as error:
                refusal = str(error)
                question.socket.close()
                time.sleep(LOOK_EVERY)
                question = Question()
            looks += 1
            busy += at_work()
        else:
            question.socket.close()
            if 2 * busy < looks:
                if before != SILENT:
                    store(FAILED)
                return f"hung: {refusal}; the container was at work in {busy} of {looks} looks"
            if before == FAILED:
                store(ANSWERED)
                return None
            if time.monotonic() >= end:
                return f"at work for {LINGER_FOR} s, and still no first answer: {refusal}" if before == SILENT else None
            continue
        question.socket.close()
        if before != ANSWERED:
            store(ANSWERED)
            return None
        if time.monotonic() >= end:
            return None
        time.sleep(ASK_EVERY)


if __name__ == "__main__":
    sys.exit(check())
