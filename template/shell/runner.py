"""The WSGI application of the template shell: one process for each request.

In: the body on standard input; Http_Method, Http_Path, Http_Query and Http_NAME for each header in the environment, as
OpenFaaS's classic watchdog has them. Out: standard output is the reply, 200, of the type in the variable content_type;
standard error is the log. An exit code but 0 is a 500. At the time limit the process and its children are killed.
"""

import os
import shlex
import signal
import subprocess

COMMAND = shlex.split(os.environ.get("fprocess") or "/function/handler.sh")
TYPE = os.environ.get("content_type") or "text/plain; charset=utf-8"


def environment(environ):
    env = dict(os.environ, Http_Method=environ["REQUEST_METHOD"], Http_Path=environ["PATH_INFO"], Http_Query=environ.get("QUERY_STRING", ""))
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            env["Http_" + name[5:].title()] = value
    for name, header in (("CONTENT_TYPE", "Http_Content_Type"), ("CONTENT_LENGTH", "Http_Content_Length")):
        if environ.get(name):
            env[header] = environ[name]
    return env


def app(environ, start_response):
    body = environ["wsgi.input"].read()
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(environ), start_new_session=True) as process:
        try:
            output, _ = process.communicate(body, environ["waggle.timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise RuntimeError(f"{COMMAND[0]} ended with code {process.returncode}")
    start_response("200 OK", [("Content-Type", TYPE), ("Content-Length", str(len(output)))])
    return [output]
