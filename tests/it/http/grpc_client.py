"""Calls every kind of method through the gateway; says what went wrong, or "all well"."""
import sys

import grpc

address, trust = sys.argv[1:3]
credentials = grpc.ssl_channel_credentials(open(trust, "rb").read())
options = [
    ("grpc.ssl_target_name_override", "site.test"),
    ("grpc.default_authority", "site.test"),
    ("grpc.keepalive_time_ms", 10000),
]
channel = grpc.secure_channel(address, credentials, options)
grpc.channel_ready_future(channel).result(timeout=20)
unary = channel.unary_unary("/test.Echo/Unary")
many_out = channel.unary_stream("/test.Echo/ManyOut")
many_in = channel.stream_unary("/test.Echo/ManyIn")
both = channel.stream_stream("/test.Echo/Both")

# one of each, with what stands before and behind the messages
answer, call = unary.with_call(b"hello", timeout=20, metadata=(("x-asked", "this"),))
assert answer == b"hello", answer
assert dict(call.initial_metadata())["x-head"] == "this", call.initial_metadata()
assert dict(call.trailing_metadata())["x-trail"] == "behind", call.trailing_metadata()

# a status that is not 0 comes in trailers alone
try:
    unary(b"fail", timeout=20)
    sys.exit("a failed call succeeded")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not today: \u00e4", error.details()
    behind = dict(error.trailing_metadata())
    assert behind["x-why"] == "because" and behind["x-raw-bin"] == b"\x00\xff", behind

# large messages, and many
big = bytes(range(256)) * 12000
assert unary(big, timeout=20) == big
assert [int(n) for n in many_out(b"1000", timeout=20)] == list(range(1000))
assert many_in((b"x" * 1000 for _ in range(500)), timeout=20) == b"500000"

# a conversation: each word waits for the answer to the one before
import queue
words = queue.Queue()
answers = both(iter(words.get, None), timeout=20)
for n in range(50):
    words.put(b"%d" % n)
    assert next(answers) == b"re:%d" % n
words.put(None)
assert list(answers) == []
assert answers.code() == grpc.StatusCode.OK

# side by side on one connection
calls = [unary.future(b"%d" % n, timeout=20) for n in range(200)]
assert [call.result() for call in calls] == [b"%d" % n for n in range(200)]

# a method that is not there is the server's to say
try:
    channel.unary_unary("/test.Echo/None")(b"", timeout=20)
    sys.exit("an unknown method succeeded")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

# who hangs up is heard at the server
words = queue.Queue()
words.put(b"first")
answers = both(iter(words.get, None), timeout=20)
assert next(answers) == b"re:first"
answers.cancel()
words.put(None)
assert unary(b"cancelled?", timeout=20) == b"yes"
print("all well")
