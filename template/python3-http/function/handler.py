"""Your function: app is a WSGI application (PEP 3333), of any framework or, as here, of none."""

MAX_BODY = 1 << 20


def app(environ, start_response):
    body = environ["wsgi.input"].read(MAX_BODY)
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [b"Hello! You said: ", body, b"\n"]
