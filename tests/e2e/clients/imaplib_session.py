import imaplib, re, sys, time

user, password, port, _ = sys.argv[1:5]
m = imaplib.IMAP4("127.0.0.1", int(port))
assert "IMAP4REV1" in m.capabilities, m.capabilities
m.login(user, password)


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


text = b"From: a@b.example\r\nSubject: from imaplib\r\n\r\nhello\r\n"
ok(m.create("Work"))
ok(m.subscribe("Work"))
for n in range(3):
    ok(m.append("Work", "(\\Seen)" if n == 1 else None, imaplib.Time2Internaldate(time.time()), text))
assert ok(m.select("Work")) == [b"3"]
assert ok(m.search(None, "SEEN")) == [b"2"]
assert ok(m.search(None, "SUBJECT", '"imaplib"')) == [b"1 2 3"]
data = ok(m.fetch("2", "(FLAGS RFC822.SIZE BODY.PEEK[])"))
assert data[0][1] == text, data
assert str(len(text)).encode() in data[0][0], data
ok(m.store("1:2", "+FLAGS", "(\\Flagged)"))
ok(m.copy("1", "INBOX"))
ok(m.uid("STORE", "3", "+FLAGS", "(\\Deleted)"))
assert ok(m.expunge()) == [b"3"]
envelope = ok(m.fetch("1", "(ENVELOPE BODYSTRUCTURE INTERNALDATE)"))[0]
assert b"from imaplib" in envelope, envelope
names = [line.split(b' "/" ')[1].strip(b'"') for line in ok(m.list())]
assert b"Work" in names and b"INBOX" in names, names
assert any(b"Work" in line for line in ok(m.lsub()))
status = ok(m.status("INBOX", "(MESSAGES UIDNEXT)"))[0]
assert re.search(rb"MESSAGES 1", status), status
ok(m.namespace())
ok(m.close())
ok(m.rename("Work", "Done"))
ok(m.delete("Done"))
assert m.logout()[0] == "BYE"
