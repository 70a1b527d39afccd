"""The vote of the case "vote" as a Flask application, for comparison.

It does what functions/vote does for a JSON vote: it checks a signed cookie, the poll and the choice, stores one stream entry
under a pseudonym, and answers with a signed receipt and the cookie of the next vote.
"""

import hashlib
import hmac
import os
import time
import uuid

import redis
from flask import Flask, jsonify, request

KEY = bytes.fromhex(os.environ["VOTE_KEY"])
CHOICES = {"pets": {"cats": 1, "dogs": 2}}
LIFE = 400 * 24 * 3600

app = Flask(__name__)
store = redis.Redis(unix_socket_path=os.environ["REDIS_SOCKET"])


def mac(text):
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def token(voter, seq):
    text = f"{voter}.{seq}.{int(time.time()) + LIFE}"
    return f"{text}.{mac(text)}"


def read_token(text):
    signed, _, signature = text.rpartition(".")
    if not signed or not hmac.compare_digest(mac(signed), signature):
        return None
    voter, seq, expires = signed.split(".")
    return (voter, int(seq)) if int(expires) > time.time() else None


def with_cookies(answer, **cookies):
    for name, value in cookies.items():
        answer.set_cookie(name, value, max_age=LIFE, httponly=True, samesite="Lax")
    answer.headers["Cache-Control"] = "no-store"
    return answer


@app.get("/")
def show():
    return with_cookies(jsonify(polls=list(CHOICES)), voter=token(uuid.uuid4(), 1))


@app.post("/")
def vote():
    known = read_token(request.cookies.get("voter", ""))
    if known is None:
        return jsonify(status="error", code="no_token"), 403
    ballot = request.get_json(silent=True) or {}
    choice = CHOICES.get(ballot.get("poll"), {}).get(ballot.get("choice"))
    if choice is None:
        return jsonify(status="error", code="unknown_choice"), 400
    voter, seq = known
    name = mac("poll/1." + voter)[:32]
    entry = store.xadd("votes", {"p": 1, "v": name, "c": choice, "s": seq, "t": int(time.time() * 1000)}, nomkstream=True)
    if entry is None:
        return jsonify(status="error", code="try_again"), 503
    text = f"r.1.{name}.{seq}.{entry.decode()}"
    receipt = f"{text}.{mac(text)}"
    answer = jsonify(status="recorded", poll=ballot["poll"], choice=ballot["choice"], seq=seq, receipt=receipt)
    return with_cookies(answer, voter=token(voter, seq + 1), receipt=receipt)
