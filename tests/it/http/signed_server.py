"""A backend that admits signed requests alone: http-message-signatures of PyPI does the judging.

Arguments: address, "hmac" or "ed25519", the file of the key. Answers 200 with what the signature
covers, or 403 with why not.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms

address, kind, file = sys.argv[1:]
key = open(file, "rb").read()
if kind == "hmac":
    key, algorithm = key.strip(), algorithms.HMAC_SHA256
else:
    key, algorithm = load_pem_public_key(key), algorithms.ED25519


class Keys(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id):
        return {"edge": key}[key_id]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def do_GET(self):
        body = self.body()
        message = SimpleNamespace(
            method=self.command, url=f"https://{self.headers['host']}{self.path}", headers=self.headers
        )
        verifier = HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=Keys())
        try:
            (result,) = verifier.verify(
                message,
                require_components=("@method", "@path", "@authority", "content-digest"),
                body=body,
            )
            status, answer = 200, " ".join(result.covered_components) + f" {len(body)}"
        except Exception as error:
            status, answer = 403, repr(error)
        answer = answer.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_):
        pass


host, port = address.rsplit(":", 1)
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
