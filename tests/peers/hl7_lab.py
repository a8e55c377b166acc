"""A laboratory on the asyncio server of the package hl7: PORT RECORD REFUSED.

Each order is written to the file RECORD, a line of hexadecimal digits, before it is answered: AA, or AR for the control id REFUSED.
"""

import asyncio
import sys

import hl7
from hl7.mllp import start_hl7_server

PORT, RECORD, REFUSED = int(sys.argv[1]), sys.argv[2], sys.argv[3]


async def connected(reader, writer):
    try:
        while True:
            block = await reader.readblock()
            with open(RECORD, "a") as record:
                record.write(block.hex() + "\n")
            order = hl7.parse(block.decode("utf-8"))
            if str(order.segment("MSH")(10)) == REFUSED:
                ack = order.create_ack("AR")
                ack.segment("MSA").assign_field("not on our list", 3)
            else:
                ack = order.create_ack("AA")
            writer.writemessage(ack)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await start_hl7_server(connected, "127.0.0.1", PORT, encoding="utf-8")
    async with server:
        await server.serve_forever()


asyncio.run(main())
