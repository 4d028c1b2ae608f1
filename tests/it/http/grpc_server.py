"""A gRPC server of the four kinds of calls, over bytes: no schema is needed to carry them."""
import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("x-why", "because"), ("x-raw-bin", b"\x00\xff")))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: \u00e4")
    if request == b"cancelled?":
        return b"yes" if cancelled.wait(10) else b"no"
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-head", metadata.get("x-asked", "nothing")),))
    context.set_trailing_metadata((("x-trail", "behind"),))
    return request


def many_out(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def many_in(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    context.add_callback(lambda: cancelled.set() if not context.is_active() else None)
    for request in requests:
        yield b"re:" + request


handler = grpc.method_handlers_generic_handler("test.Echo", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ManyOut": grpc.unary_stream_rpc_method_handler(many_out),
    "ManyIn": grpc.stream_unary_rpc_method_handler(many_in),
    "Both": grpc.stream_stream_rpc_method_handler(both),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((handler,))
if not server.add_insecure_port(sys.argv[1]):
    sys.exit("the port is taken")
server.start()
print("ready", flush=True)
server.wait_for_termination()
