"""A SPIFFE Workload API (FetchX509SVID) over gRPC: hands out what a JSON file says, and again
whenever that changes. Usage: spiffe.py SOCKET STATE"""
import base64
import json
import re
import sys
import time
from concurrent import futures

import grpc

SOCKET, STATE = sys.argv[1:]


def field(number, value):
    length, out = len(value), bytearray([number << 3 | 2])
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + value


def ders(pem):
    bodies = re.findall(r"-----BEGIN [^-]+-----([^-]+)-----END", pem)
    return [base64.b64decode(body) for body in bodies]


def joined(pem):
    return b"".join(ders(pem))


def message(state):
    out = b""
    for svid in state.get("svids", []):
        out += field(1, field(1, svid["id"].encode()) + field(2, joined(svid["chain"]))
                     + field(3, joined(svid["key"])) + field(4, joined(svid["bundle"]))
                     + field(5, b"internal"))
    for crl in ders(state.get("crl", "")):
        out += field(2, crl)
    for domain, bundle in state.get("federated", {}).items():
        out += field(3, field(1, domain.encode()) + field(2, joined(bundle)))
    return out


def fetch(request, context):
    if dict(context.invocation_metadata()).get("workload.spiffe.io") != "true":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
    if request != b"":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request has a field")
    before = None
    while context.is_active():
        with open(STATE, encoding="utf-8") as file:
            text = file.read()
        if text != before:
            before = text
            state = json.loads(text)
            if state.get("deny"):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            yield message(state)
        time.sleep(0.02)


handler = grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {
    "FetchX509SVID": grpc.unary_stream_rpc_method_handler(fetch),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port("unix:" + SOCKET)
server.start()
print("ready", flush=True)
server.wait_for_termination()
