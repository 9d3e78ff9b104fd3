"""What was acknowledged, and the comparison with what the server shows after the cut.

Invariants
  A worker has one command in flight at most: its account must be as before that command or as after it. STORE and
  EXPUNGE of several messages may have reached some of them; APPEND, COPY, MOVE, CREATE and RENAME are whole.
  A UID names one message for ever; UIDVALIDITY stays; UIDNEXT and HIGHESTMODSEQ do not go back.
  A delivery that was acknowledged is there once; one without an answer is there once or not at all.
"""

import copy
import hashlib
import itertools
import random
import re


class Lost(Exception):
    """The server shows something that no acknowledged answer allows."""


def need(condition, text):
    if not condition:
        raise Lost(text)


def message(number):
    """A message from its number alone. One in 25 is larger than what a journal keeps inline, some by far."""
    chance = random.Random(number)
    kind = chance.randrange(100)
    lines = 6000 if kind == 0 else 2000 if kind < 4 else 1 + chance.randrange(40)
    text = [f"line {n} of message {number}: {chance.getrandbits(64):016x} ." for n in range(lines)]
    if chance.randrange(4) == 0:
        text.insert(chance.randrange(lines), ".\r\n..dots\r\n")
    head = (f"From: sender@example.net\r\nTo: you@example.test\r\nSubject: number {number}\r\n"
            f"Date: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}@powercut.example>\r\n\r\n")
    return (head + "\r\n".join(text) + "\r\n").encode()


def number_of(octets):
    """The number in a Message-ID field."""
    found = re.search(rb"Message-ID: <(\d+)@powercut\.example>", octets)
    need(found, f"a message that nobody sent: {octets[:120]!r}")
    return int(found.group(1))


class Message:
    def __init__(self, number, flags=()):
        self.number, self.flags = number, frozenset(flags)

    def __eq__(self, other):
        return (self.number, self.flags) == (other.number, other.flags)

    def __repr__(self):
        return f"{self.number} {sorted(self.flags)}"


class Mailbox:
    def __init__(self, validity=None):
        self.validity = validity
        # By UID.
        self.messages = {}
        # Messages whose UID no answer has told.
        self.unplaced = []
        self.uid_next = 1
        self.modseq = 0


class Shown:
    """A mailbox as the server shows it: (UID, message) pairs, content already compared."""

    def __init__(self, validity, uid_next, modseq, messages):
        self.validity, self.uid_next, self.modseq, self.messages = validity, uid_next, modseq, messages


class Operation:
    """A change by one command: `apply(boxes, chosen)` where `chosen` are the UIDs it reached."""

    def __init__(self, text, apply, uids=(), each=False):
        self.text, self.apply, self.uids, self.each = text, apply, tuple(uids), each

    def outcomes(self):
        """Every set of UIDs that may have been reached, most and least first."""
        if not self.each:
            return [self.uids]
        sizes = range(len(self.uids), 0, -1)
        return [chosen for size in sizes for chosen in itertools.combinations(self.uids, size)]


class Account:
    def __init__(self, name, password):
        self.name, self.password = name, password
        self.boxes = {"INBOX": Mailbox()}
        # (mailbox, UIDVALIDITY, UID) -> number, for ever.
        self.named = {}
        # Numbers delivered here that a FETCH has shown.
        self.observed = set()
        self.in_flight = None

    def name_uid(self, box, validity, uid, number):
        known = self.named.setdefault((box, validity, uid), number)
        need(known == number, f"{self.name} {box}: UID {uid} named message {known}, names {number}")

    def compare(self, shown, acknowledged, unknown):
        """Takes what is shown as the new truth, or raises Lost. `acknowledged`, `unknown`: deliveries to here."""
        delivered = acknowledged - self.observed
        perhaps = unknown - self.observed
        candidates = [("as before", self.boxes)]
        if self.in_flight:
            for chosen in self.in_flight.outcomes():
                after = copy.deepcopy(self.boxes)
                self.in_flight.apply(after, chosen)
                candidates.append((f"after {self.in_flight.text} of {chosen}", after))
        differences = []
        for title, boxes in candidates:
            try:
                adopted, found = self._adopt(boxes, shown, delivered, perhaps)
            except Lost as difference:
                differences.append(f"  {title}: {difference}")
                continue
            self.boxes, self.in_flight = adopted, None
            self.observed |= found
            return
        raise Lost(f"{self.name} is in no state that was acknowledged or under way:\n" + "\n".join(differences[:8]))

    def _adopt(self, boxes, shown, delivered, perhaps):
        need(sorted(boxes) == sorted(shown), f"mailboxes {sorted(shown)}, expected {sorted(boxes)}")
        adopted, found = {}, set()
        for name, expected in boxes.items():
            have = shown[name]
            need(expected.validity in (None, have.validity),
                 f"{name}: UIDVALIDITY {have.validity} was {expected.validity}")
            need(have.uid_next >= expected.uid_next, f"{name}: UIDNEXT {have.uid_next} was {expected.uid_next}")
            need(have.modseq >= expected.modseq, f"{name}: HIGHESTMODSEQ {have.modseq} was {expected.modseq}")
            missing = dict(expected.messages)
            unplaced = list(expected.unplaced)
            new = set()
            for uid, message in have.messages:
                need(uid < have.uid_next, f"{name}: UID {uid} is not below UIDNEXT {have.uid_next}")
                need(uid not in new, f"{name}: UID {uid} twice")
                new.add(uid)
                known = missing.pop(uid, None)
                if known:
                    need(known == message, f"{name}: UID {uid} is {message}, acknowledged was {known}")
                elif message in unplaced:
                    unplaced.remove(message)
                    need(uid >= expected.uid_next, f"{name}: {message} got the old UID {uid}")
                else:
                    fresh = name == "INBOX" and message.number in delivered | perhaps
                    need(fresh, f"{name}: UID {uid} is {message}: expunged, or never sent there")
                    need(message.number not in found, f"{name}: message {message.number} twice")
                    need(not message.flags, f"{name}: UID {uid} is {message}, and nobody set flags")
                    need(uid >= expected.uid_next, f"{name}: {message} got the old UID {uid}")
                    found.add(message.number)
            need(not missing, f"{name}: lost {missing}")
            need(not unplaced, f"{name}: lost, of unknown UID, {unplaced}")
            if name == "INBOX":
                need(delivered <= found, f"{name}: lost deliveries {sorted(delivered - found)}")
            box = Mailbox(have.validity)
            box.messages = dict(have.messages)
            box.uid_next, box.modseq = have.uid_next, have.modseq
            adopted[name] = box
        for name, box in adopted.items():
            for uid, message in box.messages.items():
                self.name_uid(name, box.validity, uid, message.number)
        return adopted, found


def fingerprint(octets):
    return hashlib.sha256(octets).hexdigest()[:16]
