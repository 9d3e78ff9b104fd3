"""The load from the host: one IMAP worker an account, LMTP deliverers to several recipients, and the reader.

Invariants
  The ledger is changed when, and only when, a whole answer has been read. A connection that ends is no answer.

Limits
  MESSAGES_MAX an account, above which workers expunge rather than append; ANSWER_PATIENCE for one answer.
"""

import re
import socket
import threading

from ledger import Lost, Mailbox, Message, Operation, Shown, fingerprint, message, need, number_of

ANSWER_PATIENCE = 120.0
MESSAGES_MAX = 150
FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "\\Draft", "culver-a", "culver-b")
# Removed by EXPUNGE, so not among the flags given at random.
DELETED = "\\Deleted"


class Gone(Exception):
    """The server went away: there will be no answer."""


class Connection:
    def __init__(self, port):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_PATIENCE)
            self.file = self.socket.makefile("rb")
        except OSError as error:
            raise Gone(str(error)) from error

    def line(self):
        try:
            line = self.file.readline()
        except OSError as error:
            raise Gone(str(error)) from error
        if not line.endswith(b"\r\n"):
            raise Gone("end of connection")
        return line[:-2]

    def octets(self, count):
        try:
            octets = self.file.read(count)
        except OSError as error:
            raise Gone(str(error)) from error
        if len(octets) != count:
            raise Gone("end of connection")
        return octets

    def send(self, octets):
        try:
            self.socket.sendall(octets)
        except OSError as error:
            raise Gone(str(error)) from error

    def close(self):
        try:
            self.file.close()
            self.socket.close()
        except OSError:
            pass


class Imap(Connection):
    def __init__(self, port, account):
        super().__init__(port)
        self.tag = 0
        greeting = self.line()
        need(greeting.startswith(b"* OK"), f"greeting {greeting!r}")
        self.command(f"LOGIN {account.name} {account.password}")
        self.command("ENABLE CONDSTORE")

    def command(self, text, literal=None):
        """Sends a command; gives its untagged answers as (text without literals, literals) and the tagged one."""
        self.tag += 1
        tag = f"t{self.tag}"
        octets = f"{tag} {text}".encode()
        if literal is not None:
            octets += b" {%d+}\r\n" % len(literal) + literal
        self.send(octets + b"\r\n")
        untagged = []
        while True:
            line, literals = self.line(), []
            words = line
            while found := re.search(rb"\{(\d+)\}$", words):
                literals.append(self.octets(int(found.group(1))))
                words = self.line()
                line += words
            if line.startswith(tag.encode() + b" "):
                answer = line[len(tag) + 1:].decode(errors="replace")
                need(answer.startswith("OK"), f"{text[:80]}: {answer}")
                return untagged, answer
            untagged.append((line.decode(errors="replace"), literals))


def uid_set(text):
    """The UIDs of a uid-set, in order."""
    uids = []
    for part in text.split(","):
        low, _, high = part.partition(":")
        uids.extend(range(int(low), int(high or low) + 1))
    return uids


def flags_of(line):
    flags = re.search(r"FLAGS \(([^)]*)\)", line).group(1).split()
    return frozenset(flags) - {"\\Recent"}


def read_account(port, account):
    """Everything the server shows of an account, with each message's octets compared."""
    imap = Imap(port, account)
    shown = {}
    listed, _ = imap.command('LIST "" *')
    for line, _ in listed:
        name = re.fullmatch(r'\* LIST \(.*\) \S+ "?([^"]+)"?', line).group(1)
        answers, _ = imap.command(f"EXAMINE {name}")
        codes = "\n".join(line for line, _ in answers)
        validity, uid_next, modseq = (int(re.search(rf"\[{code} (\d+)\]", codes).group(1))
                                      for code in ("UIDVALIDITY", "UIDNEXT", "HIGHESTMODSEQ"))
        exists = int(re.search(r"\* (\d+) EXISTS", codes).group(1))
        messages = []
        if exists:
            fetched, _ = imap.command("UID FETCH 1:* (FLAGS BODY.PEEK[])")
            for line, literals in fetched:
                found = re.search(r"\bUID (\d+)", line)
                if not found or "FETCH" not in line:
                    continue
                need(len(literals) == 1, f"{account.name} {name}: {line}: no content")
                number = number_of(literals[0])
                wanted = message(number)
                # Delivery puts trace fields before the message; nothing else may differ.
                need(literals[0].endswith(wanted),
                     f"{account.name} {name}: message {number} has other octets than were sent "
                     f"({fingerprint(literals[0])}, {len(literals[0])} octets)")
                messages.append((int(found.group(1)), Message(number, flags_of(line))))
        need(len(messages) == exists, f"{account.name} {name}: {exists} exist, {len(messages)} are shown")
        shown[name] = Shown(validity, uid_next, modseq, messages)
    imap.close()
    return shown


class Numbers:
    """The next message number, for all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.last = 0

    def next(self):
        with self.lock:
            self.last += 1
            return self.last


class Deliveries:
    """What became of each delivery, by account name."""

    def __init__(self, names):
        self.acknowledged = {name: set() for name in names}
        self.unknown = {name: set() for name in names}


class Load:
    """Workers and deliverers of one round. They work until their connections die, which is right after `expect_cut`."""

    def __init__(self, guest, accounts, deliveries, numbers, seed, deliverers):
        self.guest, self.deliveries, self.numbers = guest, deliveries, numbers
        self.accounts = accounts
        self.cut_coming = threading.Event()
        self.lock = threading.Lock()
        self.answers = {}
        self.problem = None
        makers = [(self._work, (account,)) for account in accounts] + [(self._deliver, ()) for _ in range(deliverers)]
        self.threads = [threading.Thread(target=self._run, args=(f"{seed}/{n}", make, arguments), daemon=True)
                        for n, (make, arguments) in enumerate(makers)]
        for thread in self.threads:
            thread.start()

    def expect_cut(self):
        self.cut_coming.set()

    def join(self):
        for thread in self.threads:
            thread.join()
        if self.problem:
            raise self.problem

    def _run(self, seed, make, arguments):
        import random
        try:
            make(random.Random(seed), *arguments)
        except Gone as gone:
            # Before the cut, the server has no reason to go.
            if not self.cut_coming.is_set():
                self.problem = Lost(f"the server went away by itself: {gone}")
        except Exception as error:  # noqa: BLE001: the main thread raises it again
            self.problem = error

    def _count(self, what):
        with self.lock:
            self.answers[what] = self.answers.get(what, 0) + 1

    def _deliver(self, chance):
        lmtp = Connection(self.guest.lmtp)

        def answer(wanted):
            while True:
                line = lmtp.line()
                if line[3:4] != b"-":
                    need(line.startswith(wanted), f"LMTP: {line!r}")
                    return

        answer(b"220")
        lmtp.send(b"LHLO powercut.example\r\n")
        answer(b"250")
        while True:
            number = self.numbers.next()
            to = chance.sample(self.accounts, 1 + chance.randrange(len(self.accounts)))
            lmtp.send(b"MAIL FROM:<sender@example.net>\r\n")
            answer(b"250")
            for account in to:
                lmtp.send(f"RCPT TO:<{account.name}>\r\n".encode())
                answer(b"250")
            lmtp.send(b"DATA\r\n")
            answer(b"354")
            # From here on it may happen without an answer.
            for account in to:
                self.deliveries.unknown[account.name].add(number)
            lmtp.send(re.sub(rb"(?m)^\.", b"..", message(number)) + b".\r\n")
            for account in to:
                answer(b"250")
                self.deliveries.acknowledged[account.name].add(number)
                self.deliveries.unknown[account.name].discard(number)
                self._count("deliver")

    def _work(self, chance, account):
        imap = Imap(self.guest.imap, account)
        while True:
            self._change(chance, account, imap)

    def _change(self, chance, account, imap):
        """One mailbox: learn what was delivered, then some changes."""
        name = chance.choice(sorted(account.boxes))
        box = account.boxes[name]
        answers, _ = imap.command(f"SELECT {name}")
        codes = "\n".join(line for line, _ in answers)
        validity = int(re.search(r"\[UIDVALIDITY (\d+)\]", codes).group(1))
        need(box.validity in (None, validity), f"{name}: UIDVALIDITY {validity} was {box.validity}")
        box.validity = validity
        self._learn(account, imap, name, box)
        for _ in range(chance.randrange(1, 6)):
            total = sum(len(one.messages) for one in account.boxes.values())
            kinds = ["append", "append", "store", "store", "copy", "move", "expunge", "create", "rename"]
            kind = "expunge" if total > MESSAGES_MAX and box.messages else chance.choice(kinds)
            uids = chance.sample(sorted(box.messages), min(len(box.messages), chance.randrange(1, 5)))
            if kind == "append":
                self._append(chance, account, imap)
            elif kind == "create":
                self._create(chance, account, imap)
            elif kind == "rename":
                self._rename(account, imap, name, chance)
            elif uids and kind == "store":
                self._store(chance, account, imap, name, uids)
            elif uids and kind in ("copy", "move"):
                self._copy(chance, account, imap, name, uids, kind)
            elif uids and kind == "expunge":
                self._expunge(account, imap, name, uids)

    def _learn(self, account, imap, name, box):
        fetched, _ = imap.command(f"UID FETCH {box.uid_next}:* (FLAGS MODSEQ BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
        for line, literals in fetched:
            found = re.search(r"\bUID (\d+)", line)
            if not found or not literals:
                continue
            uid, number = int(found.group(1)), number_of(literals[0])
            account.name_uid(name, box.validity, uid, number)
            self._saw(box, line)
            if uid in box.messages:
                need(box.messages[uid].number == number, f"{name}: UID {uid} changed its message")
            elif uid >= box.uid_next:
                # Only deliveries come unasked. What one session sees is committed, so it is owed from here on.
                account.observed.add(number)
                box.messages[uid] = Message(number, flags_of(line))
                box.uid_next = uid + 1

    @staticmethod
    def _saw(box, line):
        for modseq in re.findall(r"(?:MODSEQ \(|HIGHESTMODSEQ )(\d+)", line):
            box.modseq = max(box.modseq, int(modseq))

    def _issue(self, account, imap, operation, command, literal=None):
        """Runs a changing command. Without an answer it stays in flight."""
        account.in_flight = operation
        untagged, answer = imap.command(command, literal)
        account.in_flight = None
        self._count(operation.text.split()[0])
        return untagged, answer

    def _append(self, chance, account, imap):
        to = chance.choice(sorted(account.boxes))
        number = self.numbers.next()
        flags = frozenset(chance.sample(FLAGS, chance.randrange(3)))
        new = Message(number, flags)

        def apply(boxes, _):
            boxes[to].unplaced.append(new)

        _, answer = self._issue(account, imap, Operation(f"append of {new} to {to}", apply),
                                f"APPEND {to} ({' '.join(sorted(flags))})", message(number))
        validity, uid = (int(n) for n in re.search(r"\[APPENDUID (\d+) (\d+)\]", answer).groups())
        self._placed(account, to, validity, uid, new)

    @staticmethod
    def _placed(account, name, validity, uid, new):
        box = account.boxes[name]
        need(box.validity in (None, validity), f"{name}: UIDVALIDITY {validity} was {box.validity}")
        box.validity = validity
        account.name_uid(name, validity, uid, new.number)
        box.messages[uid] = new

    def _store(self, chance, account, imap, name, uids):
        how, flags = chance.choice(("+", "-", "")), frozenset(chance.sample(FLAGS, 1 + chance.randrange(2)))

        def apply(boxes, chosen):
            for uid in chosen:
                old = boxes[name].messages[uid]
                new = old.flags | flags if how == "+" else old.flags - flags if how == "-" else flags
                boxes[name].messages[uid] = Message(old.number, new)

        untagged, answer = self._issue(
            account, imap, Operation(f"store {how}{sorted(flags)}", apply, uids, each=True),
            f"UID STORE {','.join(map(str, uids))} {how}FLAGS ({' '.join(sorted(flags))})")
        apply(account.boxes, uids)
        for line in [line for line, _ in untagged] + [answer]:
            self._saw(account.boxes[name], line)

    def _expunge(self, account, imap, name, uids):
        text = ",".join(map(str, uids))

        def mark(boxes, chosen):
            for uid in chosen:
                old = boxes[name].messages[uid]
                boxes[name].messages[uid] = Message(old.number, old.flags | {DELETED})

        def remove(boxes, chosen):
            for uid in chosen:
                del boxes[name].messages[uid]

        self._issue(account, imap, Operation("store \\Deleted", mark, uids, each=True),
                    f"UID STORE {text} +FLAGS.SILENT ({DELETED})")
        mark(account.boxes, uids)
        _, answer = self._issue(account, imap, Operation("expunge", remove, uids, each=True), f"UID EXPUNGE {text}")
        remove(account.boxes, uids)
        self._saw(account.boxes[name], answer)

    def _copy(self, chance, account, imap, name, uids, kind):
        others = [other for other in sorted(account.boxes) if other != name]
        if not others:
            return
        to = chance.choice(others)

        def apply(boxes, chosen):
            for uid in chosen:
                old = boxes[name].messages[uid]
                boxes[to].unplaced.append(old)
                if kind == "move":
                    del boxes[name].messages[uid]

        moved = dict((uid, account.boxes[name].messages[uid]) for uid in uids)
        untagged, answer = self._issue(account, imap, Operation(f"{kind} to {to}", apply, uids),
                                       f"UID {kind.upper()} {','.join(map(str, uids))} {to}")
        # RFC 6851 §4.3: MOVE tells COPYUID in an untagged OK.
        lines = [line for line, _ in untagged] + [answer]
        validity, sources, targets = re.search(r"\[COPYUID (\d+) (\S+) (\S+)\]", "\n".join(lines)).groups()
        need(sorted(uid_set(sources)) == sorted(uids), f"{kind}: COPYUID {sources}, asked for {uids}")
        for source, target in zip(uid_set(sources), uid_set(targets)):
            self._placed(account, to, int(validity), target, moved[source])
            if kind == "move":
                del account.boxes[name].messages[source]

    def _create(self, chance, account, imap):
        name = f"Box{chance.randrange(1 << 30)}"
        if len(account.boxes) > 4:
            return

        def apply(boxes, _):
            boxes[name] = Mailbox()

        self._issue(account, imap, Operation(f"create of {name}", apply), f"CREATE {name}")
        apply(account.boxes, ())

    def _rename(self, account, imap, selected, chance):
        names = [name for name in sorted(account.boxes) if name not in ("INBOX", selected)]
        if not names:
            return
        old, new = chance.choice(names), f"Box{chance.randrange(1 << 30)}"

        def apply(boxes, _):
            boxes[new] = boxes.pop(old)

        self._issue(account, imap, Operation(f"rename of {old} to {new}", apply), f"RENAME {old} {new}")
        apply(account.boxes, ())
        for (name, validity, uid), number in list(account.named.items()):
            if name == old:
                account.named[(new, validity, uid)] = number
