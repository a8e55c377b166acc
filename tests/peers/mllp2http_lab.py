"""A laboratory that speaks HTTP, behind mllp2http of the package mllp-https: PORT RECORD REFUSED.

Each order is written to the file RECORD, a line of hexadecimal digits, before it is answered: AA, or AR for the control id REFUSED.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mllp_http_https.main import mllp2http

PORT, RECORD, REFUSED = sys.argv[1], sys.argv[2], sys.argv[3]


class Laboratory(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        order = self.rfile.read(int(self.headers["Content-Length"]))
        with open(RECORD, "a") as record:
            record.write(order.hex() + "\n")
        msh = order.decode("utf-8").split("\r")[0].split("|")
        control_id = msh[9]
        answer = f"AR|{control_id}|not on our list" if control_id == REFUSED else f"AA|{control_id}"
        ack = f"MSH|^~\\&|LIS|LAB|HIS|WARD|20240101120001||ACK|A{control_id}|P|{msh[11]}\rMSA|{answer}\r".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(ack)))
        self.end_headers()
        self.wfile.write(ack)


laboratory = ThreadingHTTPServer(("127.0.0.1", 0), Laboratory)
threading.Thread(target=laboratory.serve_forever, daemon=True).start()
url = "http://127.0.0.1:%d/" % laboratory.server_port
sys.argv = ["mllp2http", "--host", "127.0.0.1", "--port", PORT, url]
mllp2http()
