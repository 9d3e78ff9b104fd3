import poplib, sys

user, password, _, port = sys.argv[1:5]
p = poplib.POP3("127.0.0.1", int(port))
capabilities = p.capa()
assert "TOP" in capabilities and "UIDL" in capabilities, capabilities
p.user(user)
p.pass_(password)
count, size = p.stat()
assert count == 3, (count, size)
listed = [tuple(map(int, line.split())) for line in p.list()[1]]
assert sum(octets for _, octets in listed) == size, (listed, size)
uids = [line.split()[1] for line in p.uidl()[1]]
assert len(set(uids)) == 3, uids
lines = p.retr(2)[1]
assert b"Subject: message 2" in lines and lines[-1] == b"body 2", lines
assert b"body 2" not in p.top(2, 0)[1]
p.dele(2)
p.rset()
p.dele(1)
p.quit()
p = poplib.POP3("127.0.0.1", int(port))
p.user(user)
p.pass_(password)
assert [line.split()[1] for line in p.uidl()[1]] == uids[1:]
p.quit()
