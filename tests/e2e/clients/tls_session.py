import imaplib, poplib, socket, ssl, sys

mode, user, password = sys.argv[1:4]
imap, imaps, pop3, pop3s, lmtp = map(int, sys.argv[4:9])
server = sys.argv[9]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def lines(sock, until):
    """Reads until a line begins with one of the prefixes; gives all of it."""
    data = b""
    while True:
        chunk = sock.recv(65536)
        if not chunk:
            raise AssertionError(("closed after", data))
        data += chunk
        for line in data.split(b"\r\n"):
            if line.startswith(until):
                return data


def plain(port, greeting):
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    lines(sock, greeting)
    return sock


def handshake(sock):
    """The TLS side of a connection, or None where the server ended it (which is safe as well)."""
    try:
        return context.wrap_socket(sock)
    except (ssl.SSLEOFError, ConnectionError):
        assert server != "culver", "the server ended the connection"
        return None


if mode == "handshakes":
    m = imaplib.IMAP4_SSL("127.0.0.1", imaps, ssl_context=context)
    m.login(user, password)
    assert m.noop()[0] == "OK"
    m.logout()
    m = imaplib.IMAP4("127.0.0.1", imap)
    assert "STARTTLS" in m.capabilities, m.capabilities
    m.starttls(context)
    assert "STARTTLS" not in m.capabilities, m.capabilities
    m.login(user, password)
    # More than one TLS record, both ways.
    text = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 20000
    assert m.append("INBOX", None, None, text)[0] == "OK"
    m.select("INBOX")
    assert m.fetch("1", "(BODY.PEEK[])")[1][0][1] == text
    m.logout()
    p = poplib.POP3_SSL("127.0.0.1", pop3s, context=context)
    p.user(user)
    p.pass_(password)
    assert p.stat() == (1, len(text))
    p.quit()
    p = poplib.POP3("127.0.0.1", pop3)
    p.stls(context)
    p.user(user)
    p.pass_(password)
    assert b"".join(line + b"\r\n" for line in p.retr(1)[1]) == text
    p.quit()
    sock = plain(lmtp, b"220 ")
    sock.sendall(b"LHLO x\r\n")
    if b"STARTTLS" in lines(sock, b"250 "):
        sock.sendall(b"MAIL FROM:<a@b.example>\r\n")
        lines(sock, b"250")
        sock.sendall(b"STARTTLS\r\n")
        lines(sock, b"220")
        tls = context.wrap_socket(sock)
        # The transaction from before the handshake is forgotten (RFC 3207 section 4.2).
        tls.sendall(b"RCPT TO:<" + user.encode() + b">\r\n")
        answer = lines(tls, (b"5", b"2"))
        assert answer.startswith(b"503"), answer
elif mode == "injection":
    # What follows STARTTLS in the clear must be thrown away (CVE-2011-0411 and its kin).
    sock = plain(imap, b"* OK")
    sock.sendall(b"a STARTTLS\r\nb NOOP\r\nc LOGOUT\r\n")
    answer = lines(sock, b"a OK")
    assert b"\r\nb " not in answer, answer
    tls = handshake(sock)
    if tls:
        tls.sendall(b"d CAPABILITY\r\n")
        answer = lines(tls, b"d OK")
        assert b"b OK" not in answer and b"c OK" not in answer and b"BYE" not in answer, answer
        tls.sendall(b"e LOGIN " + user.encode() + b" " + password.encode() + b"\r\n")
        lines(tls, b"e OK")
    sock = plain(pop3, b"+OK")
    sock.sendall(b"STLS\r\nUSER " + user.encode() + b"\r\nNOOP\r\n")
    answer = lines(sock, b"+OK")
    tls = handshake(sock)
    if tls:
        # USER from before does not count: PASS alone is refused.
        tls.sendall(b"PASS " + password.encode() + b"\r\n")
        answer = lines(tls, (b"+OK", b"-ERR"))
        assert answer.startswith(b"-ERR"), answer
elif mode == "versions":
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        c = ssl.create_default_context()
        c.check_hostname = False
        c.verify_mode = ssl.CERT_NONE
        c.minimum_version = c.maximum_version = version
        m = imaplib.IMAP4_SSL("127.0.0.1", imaps, ssl_context=c)
        m.login(user, password)
        m.logout()
        session = None
        resumed = False
        for _ in range(4):
            raw = socket.create_connection(("127.0.0.1", imaps), timeout=20)
            tls = c.wrap_socket(raw, session=session)
            lines(tls, b"* OK")
            resumed = resumed or tls.session_reused
            tls.sendall(b"a LOGOUT\r\n")
            lines(tls, b"a OK")
            session = tls.session
            tls.close()
        # Others may resume within one process only.
        assert resumed or server != "culver", version
