import base64, hashlib, hmac, json, os, socket, ssl, sys, time

# What a client of SASL does, from the RFCs and with nothing but the standard library.
case = json.load(open(sys.argv[1]))
imap, pop3 = case["imap"], case["pop3"]


def b64(octets):
    return base64.b64encode(octets).decode()


class Imap:
    port, starttls, started = imap, "s STARTTLS", "s OK"

    def __init__(self, tls=None, certificate=None):
        self.sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.file = self.sock.makefile("rb")
        self.greeting = self.line()
        if tls:
            assert self.ask(self.starttls).startswith(self.started), self.starttls
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = tls
            if certificate:
                context.load_cert_chain(*certificate)
            self.sock = context.wrap_socket(self.sock)
            self.file = self.sock.makefile("rb")

    def line(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), ("closed after", line)
        return line[:-2].decode()

    def ask(self, line):
        self.sock.sendall(line.encode() + b"\r\n")
        return self.line()

    def mechanisms(self):
        listed = self.ask("c CAPABILITY").split()
        assert self.line().startswith("c OK")
        return [word[5:] for word in listed if word.startswith("AUTH=")]

    def begin(self, mechanism, initial):
        return self.ask(f"a AUTHENTICATE {mechanism} {initial}")

    def challenged(self, line):
        assert line.startswith("+ "), line
        return base64.b64decode(line[2:])

    ok = "a OK"


class Pop3(Imap):
    port, starttls, started = pop3, "STLS", "+OK"

    def mechanisms(self):
        line, found = self.ask("CAPA"), []
        while line != ".":
            if line.startswith("SASL "):
                found = line.split()[1:]
            line = self.line()
        return found

    def begin(self, mechanism, initial):
        return self.ask(f"AUTH {mechanism} {initial}")

    ok = "+OK"


def scram(client, mechanism, user, password, flag="n", binding=b"", spoil=None):
    """RFC 5802 §3. Gives the last line that the server said."""
    name = {"SCRAM-SHA-1": "sha1"}.get(mechanism.removesuffix("-PLUS"), "sha256")
    nonce = b64(os.urandom(15)).replace(",", "x")
    header, bare = f"{flag},,", f"n={user},r={nonce}"
    line = client.begin(mechanism, b64((header + bare).encode()))
    if not line.startswith("+ "):
        return line
    first = client.challenged(line).decode()
    attributes = dict(part.split("=", 1) for part in first.split(","))
    assert attributes["r"].startswith(nonce) and len(attributes["r"]) > len(nonce) + 15, first
    salt, iterations = base64.b64decode(attributes["s"]), int(attributes["i"])
    assert iterations >= 4096 and len(salt) >= 8, first
    last = f"c={b64(header.encode() + binding)},r={attributes['r']}"
    said = f"{bare},{first},{last}".encode()
    salted = hashlib.pbkdf2_hmac(name, password.encode(), salt, iterations)
    key = hmac.digest(salted, b"Client Key", name)
    signature = hmac.digest(hashlib.new(name, key).digest(), said, name)
    proof = b64(bytes(a ^ b for a, b in zip(key, signature)))
    line = client.ask(b64(f"{last},p={proof}".encode()))
    if not line.startswith("+ "):
        return line
    server = hmac.digest(hmac.digest(salted, b"Server Key", name), said, name)
    assert client.challenged(line).decode() == f"v={b64(server)}", "the server does not know the password"
    return client.ask("")


def salt_of(user, mechanism="SCRAM-SHA-256"):
    client = Imap()
    first = client.challenged(client.begin(mechanism, b64(f"n,,n={user},r=nonce".encode()))).decode()
    return first.split(",")[1:]


def end_point(client):
    return hashlib.sha256(client.sock.getpeercert(True)).digest()


TLS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

if case["mode"] == "scram":
    for user, password in case["users"]:
        for protocol in (Imap, Pop3):
            client = protocol()
            assert client.mechanisms() == ["SCRAM-SHA-256", "PLAIN", "LOGIN"], client.mechanisms()
            said = scram(client, "SCRAM-SHA-256", user, password + "x")
            assert said.startswith(("a NO [AUTHENTICATIONFAILED]", "-ERR [AUTH]")), said
            # A client that could bind, of a server that cannot here.
            said = scram(client, "SCRAM-SHA-256", user, password, flag="y")
            assert said.startswith(client.ok), said
            for version in TLS:
                client = protocol(version)
                expected = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"]
                assert client.mechanisms() == expected, client.mechanisms()
                plus, point = "SCRAM-SHA-256-PLUS", end_point(client)
                end = "p=tls-server-end-point"
                for said in (
                    scram(client, plus, user, password, end, b"x" * 32),
                    scram(client, plus, user, password, "p=tls-exporter", b"x" * 32),
                    scram(client, plus, user, password, "p=tls-unique", b"x" * 12),
                    scram(client, "SCRAM-SHA-256", user, password, "y"),
                ):
                    assert said.startswith(("a NO [AUTHENTICATIONFAILED]", "-ERR [AUTH]")), said
                said = scram(client, plus, user, password, "n")
                assert said.startswith(("a BAD", "-ERR malformed")), said
                said = scram(client, plus, user, password, end, point)
                assert said.startswith(client.ok), said
                client = protocol(version)
                assert scram(client, "SCRAM-SHA-256", user, password).startswith(client.ok)
    # A name that does not exist is told by nothing.
    known, unknown = (salt_of(user) for user in (case["users"][0][0], "nobody@example.test"))
    assert known == salt_of(case["users"][0][0].upper()) and unknown == salt_of("NOBODY@example.test")
    assert known != unknown and len(known[0]) == len(unknown[0]) and known[1] == unknown[1], (known, unknown)
    assert json.dumps([known, unknown]) == case.setdefault("salts", json.dumps([known, unknown])), "salts changed"
    print(json.dumps([known, unknown]))

if case["mode"] == "penalty":
    (user, password) = case["users"][0]
    held = Imap(TLS[1])
    assert scram(held, "SCRAM-SHA-256", user, password).startswith("a OK")
    second = Imap(TLS[1])
    assert scram(second, "SCRAM-SHA-256", user, password).startswith("a NO [LIMIT]"), "one connection a user"
    began = time.monotonic()
    assert scram(second, "SCRAM-SHA-256", user, "wrong").startswith("a NO [AUTHENTICATIONFAILED]")
    assert time.monotonic() - began < 1.5, "the first failure was held back"
    for protocol in (Imap, Pop3):
        client, began = protocol(TLS[1]), time.monotonic()
        line = client.begin("SCRAM-SHA-256", b64(f"n,,n={user},r=nonce".encode()))
        assert line.startswith("+ "), line
        assert time.monotonic() - began > 1.5, "a guess was not held back"

if case["mode"] == "external":
    for protocol in (Imap, Pop3):
        for version in TLS:
            assert "EXTERNAL" not in protocol(version).mechanisms(), "nobody showed a certificate"
            client = protocol(version, case["nameless"])
            assert "EXTERNAL" not in client.mechanisms(), "the certificate names nobody"
            assert client.begin("EXTERNAL", "=").startswith(("a NO [CANNOT]", "-ERR unknown"))
            client = protocol(version, case["certificate"])
            assert client.mechanisms()[0] == "EXTERNAL", client.mechanisms()
            said = client.begin("EXTERNAL", b64(b"u001@example.test"))
            assert said.startswith(("a NO [AUTHORIZATIONFAILED]", "-ERR [AUTH]")), said
            assert client.begin("EXTERNAL", "=").startswith(client.ok)
            client = protocol(version, case["certificate"])
            assert client.begin("EXTERNAL", b64(b"U000@example.test")).startswith(client.ok)
            client = protocol(version, case["unknown"])
            said = client.begin("EXTERNAL", "=")
            assert said.startswith(("a NO [AUTHENTICATIONFAILED]", "-ERR [AUTH]")), said
            try:
                protocol(version, case["stranger"]).mechanisms()
            except (ssl.SSLError, OSError, AssertionError):
                pass
            else:
                raise AssertionError("a certificate that nobody trusts")
