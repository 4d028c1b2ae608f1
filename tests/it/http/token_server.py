"""A token endpoint and what it protects: oauthlib of PyPI does the judging.

Arguments: address, certificate chain, key, client's secret. POST /token gives tokens; anything else
is answered with the scopes of the token that it comes with, or 401.
"""

import base64
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_plus

from oauthlib.oauth2 import BackendApplicationServer, RequestValidator

address, certificate, key, secret = sys.argv[1:]
issued = {}


class Validator(RequestValidator):
    def authenticate_client(self, request, *args, **kwargs):
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            pair = base64.b64decode(header[6:]).decode().split(":")
            name, password = map(unquote_plus, pair)
        else:
            name, password = request.client_id, request.client_secret
        request.client = type("Client", (), {"client_id": name})
        return (name, password) == ("edge 1", secret)

    def validate_grant_type(self, client_id, grant_type, client, request, *args, **kwargs):
        return grant_type == "client_credentials"

    def validate_scopes(self, client_id, scopes, client, request, *args, **kwargs):
        return set(scopes) <= {"read", "write"}

    def get_default_scopes(self, client_id, request, *args, **kwargs):
        return ["read"]

    def save_bearer_token(self, token, request, *args, **kwargs):
        issued[token["access_token"]] = token["scope"]

    def validate_bearer_token(self, token, scopes, request):
        return token in issued


server = BackendApplicationServer(Validator())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        headers = {"Authorization": self.headers.get("Authorization", "")}
        valid, _ = server.verify_request(self.path, "GET", None, headers, ["read"])
        token = headers["Authorization"].removeprefix("Bearer ")
        self.answer(200, issued[token]) if valid else self.answer(401, "no")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        headers, body, status = server.create_token_response(
            f"https://{address}{self.path}", "POST", body, dict(self.headers.items())
        )
        self.answer(status, body, headers)

    def log_message(self, *_):
        pass


class Tls(ThreadingHTTPServer):
    """The same port for TLS (the endpoint) and plain text (the backend)."""

    def get_request(self):
        stream, peer = super().get_request()
        first = stream.recv(1, 2)  # MSG_PEEK
        if first == b"\x16":
            stream = context.wrap_socket(stream, server_side=True)
        return stream, peer


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
host, port = address.rsplit(":", 1)
Tls((host, int(port)), Handler).serve_forever()
