"""Passes connections to a port of one address on to the same port of 127.0.0.1.

python -m tests.faults.relay ADDRESS PORT
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def relay(address: str, port: int) -> None:
    """Relay until cancelled; a line is printed once connections are accepted."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the other side is gone, which its own reader finds, too
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    async with await asyncio.start_server(accept, address, port) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], int(sys.argv[2])))
