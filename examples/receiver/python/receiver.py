"""Receives callhook's webhooks (Standard Webhooks 1.0.0): verifies each request over
the bytes of its body, does the work once per webhook-id, and answers 204. It needs
Python 3.9 or later and no package, and is one file to copy.

    WEBHOOK_KEYS="whsec_..." python3 receiver.py

It checks v1 (HMAC-SHA256) and passes over other versions, so that a request with v1
and v1a (Ed25519) is verified by its v1. It cannot check v1a: Python's standard
library has no Ed25519. With the package "cryptography" it is

    Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_"))) \\
        .verify(base64.b64decode(signature.removeprefix("v1a,")), content)

which raises InvalidSignature, content being what verify makes below.

The environment:

    WEBHOOK_KEYS  the keys, whsec_..., with spaces between. Give the old and the new
                  one while a key is being replaced.
    HOST, PORT    where it listens: 127.0.0.1 and 8080 unless told. PORT=0 picks a port.
    SEEN_FILE     the SQLite database in which it remembers what it has done: seen.db
                  unless told. Several processes may share it.

To change: work. TLS, and slow or very many clients, are for the proxy in front of it.

It answers 401 to what is not signed with its keys, and callhook tries that again for
three days: time to mend a key. It answers 400 to what is signed and is not a JSON
object, and 500 when the work failed. It may be killed at any time: what it has not
answered is sent again.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import re
import sqlite3
import sys
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 5 << 20  # bytes of a body. callhook sends at most 4 MiB unless told.
TOLERANCE = 300  # seconds that a signature may be old, or from the future
REMEMBER = 40 * 86400  # seconds: callhook tries for 3 days, and keeps what failed for 30 more, to be replayed
SEEN_FILE = os.environ.get("SEEN_FILE") or "seen.db"


def work(db, id, event):
    """What an event is for: yours to write. An exception means that the event is sent
    again later. An event with "test": true was sent by somebody who tries a webhook out.

    It runs inside the transaction that remembers the id: what it writes with db is
    there exactly once, whatever crashes. Other events wait meanwhile, so it had better
    be quick: an INSERT into a table of yours, from which a worker goes on.
    """
    call, test = at(event, "data", "call", "id"), event.get("test", False)
    print(json.dumps({"id": id, "type": event.get("type"), "call": call, "test": test}, separators=(",", ":")), flush=True)


def at(value, *path):
    """Returns what is at the path, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


class Refused(Exception):
    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


def verify(headers, body, keys):
    """Raises Refused unless one of the v1 signatures fits the body and one of the keys."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "").split()
    # No dot in an id, and only the digits of ASCII.
    if not re.fullmatch(r"[!-\-/-~]{1,256}", id) or not re.fullmatch(r"[0-9]{1,12}", timestamp) or not signatures:
        raise Refused(401, "webhook-id, webhook-timestamp or webhook-signature is missing or malformed")
    v1 = [s.encode("latin-1") for s in signatures if s.startswith("v1,")]
    if not v1:
        raise Refused(401, "there is no v1 signature (HMAC-SHA256), and this receiver cannot check v1a (Ed25519) or others")
    content = f"{id}.{timestamp}.".encode() + body
    wanted = [b"v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()) for key in keys]
    if not any(hmac.compare_digest(want, given) for want in wanted for given in v1):
        raise Refused(401, "no signature matches: the body was changed, or it was signed with another key")
    age = time.time() - int(timestamp)
    if age > TOLERANCE:
        raise Refused(401, "the signature is too old: an old request was sent again, or the clock is wrong")
    if age < -TOLERANCE:
        raise Refused(401, "the signature is from the future: a clock is wrong")


def parse_keys(text):
    keys = []
    for key in text.split():
        if key.startswith("whpk_"):
            sys.exit("WEBHOOK_KEYS: whpk_... is a key of v1a (Ed25519), which this receiver cannot check: Python's standard"
                     " library has no Ed25519. Take a whsec_ key, or see the top of this file.")
        encoded = key.removeprefix("whsec_").rstrip("=")
        try:
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            raw = b""
        if not 24 <= len(raw) <= 64:
            sys.exit("WEBHOOK_KEYS: a key is whsec_, followed by 24 to 64 bytes in base64")
        keys.append(raw)
    if not keys:
        sys.exit("WEBHOOK_KEYS is empty: give it the keys of the webhook, whsec_...")
    return keys


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 15  # seconds that a client may keep silent

    def do_POST(self):
        try:
            body = self.read()
            verify(self.headers, body, self.server.keys)  # nothing is read of the body before
            once(self.headers["webhook-id"], parse(body))
        except Refused as refusal:
            self.answer(refusal.status, str(refusal))
        except Exception:
            traceback.print_exc()
            self.answer(500, "it failed here: send it again")
        else:
            self.send_response(204)
            self.end_headers()

    def do_other(self):
        self.answer(405, "webhooks are sent with POST")

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_other

    def read(self):
        """Returns the body as it arrived: the signature is over its bytes."""
        length = self.headers.get("content-length", "")
        if "transfer-encoding" in self.headers or not re.fullmatch(r"[0-9]{1,18}", length):
            raise Refused(411, "the body must come with its Content-Length")
        if int(length) > LIMIT:
            raise Refused(413, f"the body is larger than {LIMIT} bytes")
        try:
            body = self.rfile.read(int(length))
        except OSError:
            body = b""
        if len(body) < int(length):
            raise Refused(400, "the body did not arrive whole")
        return body

    def answer(self, status, why):
        id = self.headers.get("webhook-id", "")[:64]
        sys.stderr.write(f"{status} {json.dumps(id)} {why}\n")
        text = (why + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Allow", "POST")
        self.send_header("Connection", "close")  # the body may not have been read
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_):
        pass  # answer does


def parse(body):
    try:
        event = json.loads(body.decode())
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise Refused(400, "the body is signed, but is not a JSON object")
    return event


def once(id, event):
    """Does the work for an id that is not remembered, and remembers it when the work
    succeeds. A second request with the same id waits for the first."""
    with contextlib.closing(connect()) as db, db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM seen WHERE at < ?", (time.time() - REMEMBER,))
        if db.execute("INSERT OR IGNORE INTO seen (id, at) VALUES (?, ?)", (id, time.time())).rowcount:
            work(db, id, event)


def connect():
    return sqlite3.connect(SEEN_FILE, timeout=10, isolation_level=None)


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    keys = ()


if __name__ == "__main__":
    Server.keys = parse_keys(os.environ.get("WEBHOOK_KEYS", ""))
    with contextlib.closing(connect()) as db:
        db.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID")
        db.execute("CREATE INDEX IF NOT EXISTS seen_at ON seen (at)")
    server = Server((os.environ.get("HOST") or "127.0.0.1", int(os.environ.get("PORT") or 8080)), Receiver)
    print("listening on http://%s:%d" % server.server_address[:2], flush=True)
    server.serve_forever()
