"""Signs a request as http-message-signatures of PyPI does, and prints the fields to send.

Arguments: "hmac" or "ed25519", the file of the key, method, URL, body.
"""

import sys
from types import SimpleNamespace

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

kind, file, method, url, body = sys.argv[1:]
key = open(file, "rb").read()
if kind == "hmac":
    key, algorithm = key.strip(), algorithms.HMAC_SHA256
else:
    key, algorithm = load_pem_private_key(key, None), algorithms.ED25519


class Keys(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id):
        return key


message = SimpleNamespace(method=method, url=url, headers={"Content-Type": "text/plain"})
HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=Keys()).sign(
    message,
    key_id="edge",
    tag="app",
    nonce="of-this-request",
    covered_component_ids=("@method", "@authority", "@path", "@query", "content-type"),
    body=body.encode(),
)
for name, value in message.headers.items():
    print(f"{name}: {value}")
