#!/usr/bin/env python3
"""Power cuts of a virtual machine: what culver acknowledged survives the loss of memory and of the disk's cache.

Each cut: boot a QEMU guest on the disk that the last cut left, `culver check`, start, compare all accounts with
the ledger on the host, put load on it, and take the power away at a random instant. See README.md.

Last line: `powercut: N cuts, N lost`, or `powercut: skipped: why`. Exit status 0 when nothing was lost (with
--control: when loss was found), 1 otherwise.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

from guest import GuestError, Guest, Skipped, initrd, install, kernel, new_image
from ledger import Account, Lost
from load import Connection, Deliveries, Gone, Load, Numbers, read_account
import disk

WORKSPACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ACCOUNTS = 3
DELIVERERS = 2
SHARDS = 2
# Seconds of load before the power goes.
LOAD_MIN, LOAD_MAX = 0.5, 6.0
# One cut in so many comes while the server starts on what the last one left.
RECOVERY_CUT_ONE_IN = 5
RECOVERY_SECONDS_MAX = 3.0
# How probable it is for a cached sector to have reached the platter.
KEEPS = (0.0, 0.0, 0.1, 0.5, 0.9)
READY_PATIENCE = 120.0


def say(text):
    print(text, flush=True)


class Run:
    def __init__(self, arguments, work, kernel_root):
        self.arguments, self.work, self.kernel = arguments, work, kernel_root
        self.random = random.Random(arguments.seed)
        self.image = os.path.join(work, "disk.img")
        self.users = [(f"user{n}@example.test", f"secret{n}") for n in range(ACCOUNTS)]
        self.answers = {}
        self.lost_sectors = 0
        self.fresh()

    def fresh(self):
        """A new disk, and a ledger that knows of nothing."""
        new_image(self.image)
        self.accounts = [Account(name, password) for name, password in self.users]
        self.deliveries = Deliveries([name for name, _ in self.users])
        self.numbers = Numbers()
        # Has a server been ready on this disk? Before, a cut may leave a store half made, which is none.
        self.made = False

    def boot(self):
        return Guest(self.work, self.kernel, self.image, self.arguments.verbose)

    def mount_and_check(self, guest):
        guest.must("mount", self.arguments.control or "")
        if self.made and guest.tell("check") != 0:
            raise Lost("culver check found:\n" + "\n".join(guest.last[-30:]))

    def compare(self, guest):
        """Waits for the server, then compares every account with the ledger."""
        until = time.monotonic() + READY_PATIENCE
        while True:
            try:
                probe = Connection(guest.imap)
                probe.line()
                probe.close()
                break
            except Gone:
                # The forward accepts before the server listens, and closes.
                if time.monotonic() > until:
                    guest.tell("log")
                    raise Lost("the server does not start:\n" + "\n".join(guest.last[-40:])) from None
                time.sleep(0.1)
        self.made = True
        for account in self.accounts:
            shown = read_account(guest.imap, account)
            account.compare(shown, self.deliveries.acknowledged[account.name],
                            self.deliveries.unknown[account.name])
            # Without an answer and not there: it will not come any more.
            self.deliveries.unknown[account.name] &= account.observed

    def cut(self, guest):
        instant = self.random.choice(disk.INSTANTS)
        report = guest.power_off(instant, self.random.choice(KEEPS), self.random.getrandbits(32))
        self.lost_sectors += int(report.partition(" lost=")[2].split()[0])
        return report

    def round(self, number, cuts):
        started = time.monotonic()
        with self.boot() as guest:
            booted = time.monotonic()
            self.mount_and_check(guest)
            guest.must("start")
            if number > 1 and not self.arguments.control and self.random.randrange(RECOVERY_CUT_ONE_IN) == 0:
                time.sleep(self.random.uniform(0, RECOVERY_SECONDS_MAX))
                report = self.cut(guest)
                say(f"cut {number}/{cuts}: during recovery; {report}; {time.monotonic() - started:.1f} s")
                return
            self.compare(guest)
            compared = time.monotonic()
            load = Load(guest, self.accounts, self.deliveries, self.numbers, self.random.getrandbits(32), DELIVERERS)
            until = time.monotonic() + self.random.uniform(LOAD_MIN, LOAD_MAX)
            while time.monotonic() < until and not load.problem:
                time.sleep(0.01)
            if load.problem:
                # While the machine lives: its log says more than the answer did.
                guest.tell("log")
                raise Lost(f"{load.problem}\n" + "\n".join(guest.last[-40:]))
            load.expect_cut()
            report = self.cut(guest)
            load.join()
        answered = sum(load.answers.values())
        for what, count in load.answers.items():
            self.answers[what] = self.answers.get(what, 0) + count
        total = sum(len(box.messages) for account in self.accounts for box in account.boxes.values())
        say(f"cut {number}/{cuts}: {answered} answers, ~{total} messages; {report}; boot {booted - started:.1f} s, "
            f"compare {compared - booted:.1f} s, all {time.monotonic() - started:.1f} s")

    def last_look(self):
        """After the last cut: compare, stop in order, check."""
        with self.boot() as guest:
            self.mount_and_check(guest)
            guest.must("start")
            self.compare(guest)
            guest.must("stop")
            if guest.tell("check") != 0:
                raise Lost("culver check found, after a stop in order:\n" + "\n".join(guest.last[-30:]))
            guest.shut_down()

    def all(self):
        """Gives (cuts made, losses found)."""
        cuts, losses, made = self.arguments.cuts, 0, 0
        for number in range(1, cuts + 2):
            try:
                if number <= cuts:
                    self.round(number, cuts)
                    made += 1
                else:
                    self.last_look()
            except (Lost, GuestError) as problem:
                losses += 1
                say(f"cut {number - 1}: LOST: {problem}")
                if self.arguments.control:
                    return made, losses
                if self.arguments.keep:
                    shutil.copy(self.image, os.path.join(self.arguments.keep, f"lost-after-cut-{number - 1}.img"))
                self.fresh()
        return made, losses


def binary(path):
    if not os.path.exists(path):
        raise SystemExit(f"powercut: there is no {path}; build it: cargo build")
    return os.path.abspath(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(WORKSPACE, "target/debug/culver"), help="the culver to test")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--control", choices=("no-sync", "no-flush"),
                        help="leave out fsync, or the disk's flush, below culver: loss must be found")
    parser.add_argument("--keep", metavar="DIR", help="where to copy the disk's image after a loss")
    parser.add_argument("--cache", default=os.path.join(WORKSPACE, "target/powercut"), help="where the kernel is kept")
    parser.add_argument("--verbose", action="store_true", help="show the guest's console")
    arguments = parser.parse_args()
    arguments.binary = binary(arguments.binary)
    say(f"powercut: {arguments.cuts} cuts, --seed {arguments.seed}, {arguments.control or 'no'} control")
    # An end in order, so that the machine and its disk do not stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("powercut: terminated"))
    started = time.monotonic()
    work = tempfile.mkdtemp(prefix="culver-powercut-")
    try:
        install(say)
        os.makedirs(arguments.cache, exist_ok=True)
        if arguments.keep:
            os.makedirs(arguments.keep, exist_ok=True)
        root = kernel(arguments.cache)
        run = Run(arguments, work, root)
        initrd(os.path.join(work, "initrd"), root, arguments.binary, run.users, SHARDS)
        made, losses = run.all()
    except Skipped as why:
        say(f"powercut: skipped: {why}")
        return 0
    except Exception:  # noqa: BLE001: the last line is a contract, also when the test itself is broken
        traceback.print_exc()
        say("powercut: broken")
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    answers = ", ".join(f"{count} {what}" for what, count in sorted(run.answers.items()))
    say(f"powercut: acknowledged: {answers}; {run.lost_sectors} cached sectors lost; "
        f"{time.monotonic() - started:.0f} s")
    say(f"powercut: {made} cuts, {losses} lost")
    if arguments.control:
        return 0 if losses else 1
    # Where nothing was acknowledged and no sector was lost, nothing was proved.
    return 1 if losses or not run.answers or not run.lost_sectors else 0


if __name__ == "__main__":
    sys.exit(main())
