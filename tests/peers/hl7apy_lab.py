"""A laboratory on the MLLPServer of the package hl7apy, which closes the connection after each order: PORT RECORD REFUSED.

Each order is written to the file RECORD, a line of hexadecimal digits, before it is answered: AA, or AR for the control id REFUSED.
"""

import sys

from hl7apy.core import Message
from hl7apy.mllp import AbstractHandler, MLLPServer
from hl7apy.parser import parse_message

PORT, RECORD, REFUSED = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Order(AbstractHandler):
    def reply(self):
        with open(RECORD, "a") as record:
            record.write(self.incoming_message.encode("utf-8").hex() + "\n")
        order = parse_message(self.incoming_message, find_groups=False)
        control_id = order.msh.msh_10.to_er7()
        ack = Message("ACK", version=order.version)
        ack.msh.msh_9 = "ACK"
        ack.msh.msh_10 = "A" + control_id
        ack.msh.msh_11 = "P"
        ack.add_segment("MSA")
        ack.msa.msa_1 = "AR" if control_id == REFUSED else "AA"
        ack.msa.msa_2 = control_id
        if control_id == REFUSED:
            ack.msa.msa_3 = "not on our list"
        return ack.to_mllp()


HANDLERS = {kind: (Order,) for kind in ("ORM^O01", "OML^O21^OML_O21")}
MLLPServer("127.0.0.1", PORT, HANDLERS).serve_forever()
