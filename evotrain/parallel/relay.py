"""Passes a process's connections to the coordinator on, and holds them open when the coordinator is gone.

JAX aborts a process with a stack trace as soon as its connection to the coordinator closes, before anything can be
said. Through a relay it sees silence instead, and the watch has the time to say what has happened. A relay is a program
of its own because JAX may hold Python's lock while it waits for the coordinator. It needs the standard library only:

    python relay.py HOST PORT

prints the port on this machine that leads to the coordinator, and `lost` when the coordinator has closed a connection.
It ends with its standard input.
"""

import asyncio
import os
import signal
import sys
from typing import NoReturn

CHUNK = 1 << 16


async def main(host: str, port: int) -> NoReturn:
    """Relays until standard input ends."""

    async def serve(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        try:
            far, to_far = await asyncio.open_connection(host, port)
        except OSError:  # not there yet: JAX tries again
            to_near.close()
            return
        outward, inward = asyncio.create_task(pump(near, to_far)), asyncio.create_task(pump(far, to_near))
        await asyncio.wait({outward, inward}, return_when=asyncio.FIRST_COMPLETED)
        # A pump ends for two reasons: its source is closed, or its sink.
        if near.at_eof() or to_near.is_closing():
            to_near.close()
            to_far.close()
            return
        print("lost", flush=True)
        await asyncio.Event().wait()  # holds on to the near side

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    os._exit(0)  # no connection needs a farewell


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Passes bytes on until one of the two ends is closed."""
    try:
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass


if __name__ == "__main__":
    # What a scheduler sends to every process of a run is meant for the run, which goes on until it has saved.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
