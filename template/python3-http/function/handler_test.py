"""Runs in the build of the image, and stops it when it fails."""

import io
import unittest
from wsgiref.util import setup_testing_defaults

from handler import app


class TestApp(unittest.TestCase):
    def test_repeats_what_it_is_told(self):
        environ = {"wsgi.input": io.BytesIO(b"bee")}
        setup_testing_defaults(environ)
        replies = []
        body = b"".join(app(environ, lambda status, headers: replies.append(status)))
        self.assertEqual((replies, body), (["200 OK"], b"Hello! You said: bee\n"))
