"""IMAP COMPRESS=DEFLATE (RFC 4978) by way of zlib: user, password, port, and `tls` or `plain`."""
import socket, ssl, sys, time, zlib

user, password, port, kind = sys.argv[1:5]


class Wire:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", int(port)), 20)
        if kind == "tls":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        self.read, self.down, self.up, self.octets = b"", None, None, 0

    def compress(self):
        assert not self.read, self.read
        self.down = zlib.decompressobj(-15)
        self.up = zlib.compressobj(9, zlib.DEFLATED, -15)

    def more(self):
        piece = self.socket.recv(65536)
        assert piece, "closed"
        self.octets += len(piece)
        self.read += self.down.decompress(piece) if self.down else piece

    def line(self):
        while b"\r\n" not in self.read:
            self.more()
        line, self.read = self.read.split(b"\r\n", 1)
        return line

    def send(self, octets, flush=zlib.Z_SYNC_FLUSH):
        if self.up:
            octets = self.up.compress(octets) + self.up.flush(flush)
        self.socket.sendall(octets)

    def tagged(self, tag):
        lines = []
        while True:
            lines.append(self.line())
            if lines[-1].startswith(tag + b" "):
                return lines

    def do(self, tag, command, flush=zlib.Z_SYNC_FLUSH):
        self.send(tag + b" " + command + b"\r\n", flush)
        return self.tagged(tag)


wire = Wire()
wire.line()
assert b"COMPRESS" not in wire.do(b"a0", b"CAPABILITY")[0], "before the login"
assert wire.do(b"a", b"COMPRESS DEFLATE")[-1].startswith(b"a BAD"), "before the login"
assert b" OK " in wire.do(b"b", f"LOGIN {user} {password}".encode())[-1]
assert b" COMPRESS=DEFLATE" in wire.do(b"c", b"CAPABILITY")[0]
assert wire.do(b"d", b"COMPRESS ZSTD")[-1].startswith(b"d BAD")
assert wire.do(b"e", b"COMPRESS DEFLATE")[-1].startswith(b"e OK")
wire.compress()
assert b"COMPRESS" not in wire.do(b"f", b"CAPABILITY")[0], "it is active"
assert wire.do(b"g", b"COMPRESS DEFLATE")[-1].startswith(b"g BAD")

# A message that compresses well and one that does not; both ways, each whole at once.
text = b"Subject: text\r\n\r\n" + b"All work and no play makes Jack a dull boy.\r\n" * 20000
noise = bytes(33 + (at * 2654435761 >> 11 & 0xFFFF) % 90 for at in range(300_000))
noise = b"Subject: noise\r\n\r\n" + b"\r\n".join(noise[at : at + 70] for at in range(0, len(noise), 70)) + b"\r\n"
for tag, message in ((b"h", text), (b"i", noise)):
    assert wire.do(tag, b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))[-1].startswith(tag + b" OK")
assert wire.do(b"j", b"SELECT INBOX", zlib.Z_FULL_FLUSH)[-1].startswith(b"j OK")
for number, message in ((b"1", text), (b"2", noise)):
    before = wire.octets
    wire.send(b"k" + number + b" FETCH " + number + b" BODY.PEEK[]\r\n", zlib.Z_PARTIAL_FLUSH)
    begin = wire.line()
    assert begin == b"* %s FETCH (BODY[] {%d}" % (number, len(message)), begin
    while len(wire.read) < len(message) + 1:
        wire.more()
    assert wire.read[: len(message)] == message
    wire.read = wire.read[len(message) :]
    assert wire.line() == b")"
    assert wire.line().startswith(b"k" + number + b" OK")
    if message is text:
        assert wire.octets - before < len(text) / 20, "it is not compressed"

# Many small commands at once, octet by octet, and one that takes its time.
wire.send(b"".join(b"n%d NOOP\r\n" % n for n in range(200)))
for n in range(200):
    assert wire.tagged(b"n%d" % n)[-1].startswith(b"n%d OK" % n)
for byte in b"o NOOP\r\n":
    wire.send(bytes([byte]))
assert wire.tagged(b"o")[-1].startswith(b"o OK")

# IDLE, and a session that is put away and wakes, in the middle of the compressed stream.
wire.send(b"p IDLE\r\n")
assert wire.line().startswith(b"+")
time.sleep(float(sys.argv[5]) if len(sys.argv) > 5 else 0.1)
other = Wire()
other.line()
other.do(b"a", f"LOGIN {user} {password}".encode())
other.do(b"b", b"APPEND INBOX {17+}\r\nSubject: x\r\n\r\nx\r\n")
assert wire.line() == b"* 3 EXISTS"
wire.send(b"DONE\r\n")
assert wire.tagged(b"p")[-1].startswith(b"p OK")
assert wire.do(b"q", b"NOOP")[-1].startswith(b"q OK")

# RFC 8437 §4.1: it ends with the login.
assert wire.do(b"r", b"UNAUTHENTICATE", zlib.Z_FINISH)[-1].startswith(b"r OK")
wire.up = wire.down = None
assert wire.do(b"s", f"LOGIN {user} {password}".encode())[-1].startswith(b"s OK")
assert b" COMPRESS=DEFLATE" in wire.do(b"t", b"CAPABILITY")[0]
assert wire.do(b"u", b"LOGOUT")[-1].startswith(b"u OK")

# What is no DEFLATE ends the connection, and nothing else.
wire = Wire()
wire.line()
wire.do(b"a", f"LOGIN {user} {password}".encode())
wire.do(b"b", b"COMPRESS DEFLATE")
wire.socket.sendall(b"c NOOP\r\n\xff\xff\xff\xff\xff\xff\xff\xff")
try:
    assert wire.socket.recv(1) == b"", "it is answered"
except ConnectionError:
    pass
assert other.do(b"z", b"NOOP")[-1].startswith(b"z OK")
