"""The Autobahn WebSocket suite (kosoku runs its cases) and what it talks to. Who is tested is not
the client or the server, which pass by themselves, but what stands between them.

echo ADDRESS         a WebSocket server that gives messages back
suite ADDRESS TRUST  the suite as a client, inside TLS, to this address
server ADDRESS       the suite as a server; ends when its client has had enough
client ADDRESS TRUST  a client of that suite, inside TLS, to this address
"""

import asyncio
import logging
import ssl
import sys

import websockets

# what breaks is what the suite wants to break
logging.getLogger("websockets").setLevel(logging.CRITICAL)

# without the hundreds of long runs of the same: sizes to 16 MiB (9.*) and compression (12.*, 13.*)
CASES = [f"{n}.*" for n in (1, 2, 3, 4, 5, 6, 7, 10)] + ["9.1.1", "9.2.1", "9.3.1", "9.5.1", "12.1.1", "12.2.1", "13.1.1"]
AGENT = "chain"


def parted(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


async def echo(address):
    async def give_back(socket, *_path):
        async for message in socket:
            await socket.send(message)

    host, port = parted(address)
    async with websockets.serve(give_back, host, port, max_size=None, max_queue=None):
        print("ready", flush=True)
        await asyncio.Future()


async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def suite(address, trust):
    from kosoku import run_fuzzingclient

    host, port = parted(address)
    context = ssl.create_default_context(cafile=trust)

    async def inside_tls(reader, writer):
        theirs = await asyncio.open_connection(host, port, ssl=context, server_hostname="site.test")
        # who closes first closes both: the suite judges how a connection ends, not by whom
        both = [asyncio.ensure_future(pump(reader, theirs[1])), asyncio.ensure_future(pump(theirs[0], writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for part in both:
            part.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        for end in (writer, theirs[1]):
            end.close()

    # the suite names the host that it dials, which the gateway's own address may be
    adapter = await asyncio.start_server(inside_tls, host, 0)
    own = adapter.sockets[0].getsockname()[1]
    await told(run_fuzzingclient(f"ws://{host}:{own}", cases=CASES, concurrency=2))


async def server(address):
    from kosoku import run_fuzzingserver

    host, port = parted(address)
    async with run_fuzzingserver(CASES, host=host, port=port) as running:
        print("ready", flush=True)
        await told(running.get_result())


async def told(results):
    from kosoku import FailureError

    try:
        results = await results
    except FailureError as error:
        results = error.results
    for result in results:
        if not result.passed:
            print(result.case_id, result.behavior.value, result.behavior_close.value, result.result, result.result_close)
    failed = sum(not result.passed for result in results)
    print(f"{len(results)} cases, {failed} failed", flush=True)


async def client(address, trust):
    context = ssl.create_default_context(cafile=trust)
    host, port = parted(address)

    def connect(path):
        return websockets.connect(
            f"wss://site.test:{port}{path}", host=host, port=port, ssl=context, server_hostname="site.test", max_size=None, max_queue=None
        )

    async with connect("/getCaseCount") as socket:
        count = int(await socket.recv())
    for case in range(1, count + 1):
        try:
            async with connect(f"/runCase?case={case}&agent={AGENT}") as socket:
                async for message in socket:
                    await socket.send(message)
        except websockets.ConnectionClosed:
            pass
    try:
        async with connect(f"/updateReports?agent={AGENT}") as socket:
            await socket.recv()
    except websockets.ConnectionClosed:
        pass  # it has what it wanted


asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
