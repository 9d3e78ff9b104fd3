"""A disk with a volatile write cache, served by NBD on a unix socket.

Invariants
  What the image file holds is what is on the platter. A write is answered when it is in the cache, which is
  memory of this process; it reaches the image by a FLUSH that was answered, by FUA, or by chance (eviction).
  From the cut on nothing is answered and nothing reaches the image but what the cut itself decides.

Crash
  A cut keeps, of every cached sector on its own, one of the versions written since the last flush, or none. So
  writes since the flush are lost, torn at 512 octets and reordered, as ATA and NVMe allow for a volatile cache.

Limits
  CACHE_SECTORS_MAX and VERSIONS_MAX bound the memory; REQUEST_OCTETS_MAX bounds a request.

NBD: the fixed newstyle handshake with NBD_OPT_EXPORT_NAME, NBD_OPT_GO and NBD_OPT_ABORT, and simple replies
(https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
"""

import os
import random
import socket
import struct
import sys
import threading

SECTOR = 512
# 256 MiB; beyond, the oldest sectors are written out, unordered with respect to everything else.
CACHE_SECTORS_MAX = 512 * 1024
# Versions of one sector between two flushes; the oldest is forgotten beyond.
VERSIONS_MAX = 4
REQUEST_OCTETS_MAX = 32 * 1024 * 1024

NBD_MAGIC, OPTION_MAGIC, REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
OPT_EXPORT_NAME, OPT_ABORT, OPT_GO = 1, 2, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, 0x80000001
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
FLAG_FUA = 1
# HAS_FLAGS, SEND_FLUSH, SEND_FUA: the client is told that there is a cache, and how to empty it.
TRANSMISSION_FLAGS = 0b1101
EINVAL = 22

# Where in the stream of requests the power goes: at once; when the next FLUSH arrives; when it has been done but
# not answered; in the middle of the next write.
INSTANTS = ("now", "before-flush", "after-flush", "in-write")
# If the awaited request does not come, the power goes after so many seconds.
INSTANT_PATIENCE = 2.0


class Disk:
    """The platter (an open file), the cache before it, and the switch."""

    def __init__(self, image):
        self.file = os.open(image, os.O_RDWR)
        self.octets = os.fstat(self.file).st_size
        # Sector number -> versions since the last flush, oldest first.
        self.cache = {}
        # Held for each request, and for ever from the cut on.
        self.lock = threading.Lock()
        self.instant = None
        self.random = None
        self.keep = 0.0
        self.cut_done = threading.Event()
        self.report = ""
        self.writes = self.flushes = 0

    def read(self, offset, length):
        data = bytearray(os.pread(self.file, length, offset))
        first = offset // SECTOR
        if self.cache:
            for n in range(length // SECTOR):
                versions = self.cache.get(first + n)
                if versions:
                    data[n * SECTOR:(n + 1) * SECTOR] = versions[-1]
        return bytes(data)

    def write(self, offset, data, fua):
        self.writes += 1
        first = offset // SECTOR
        if fua:
            for n in range(len(data) // SECTOR):
                self.cache.pop(first + n, None)
            os.pwrite(self.file, data, offset)
            return
        for n in range(len(data) // SECTOR):
            versions = self.cache.setdefault(first + n, [])
            versions.append(data[n * SECTOR:(n + 1) * SECTOR])
            if len(versions) > VERSIONS_MAX:
                del versions[0]
        while len(self.cache) > CACHE_SECTORS_MAX:
            sector = next(iter(self.cache))
            os.pwrite(self.file, self.cache.pop(sector)[-1], sector * SECTOR)

    def flush(self):
        self.flushes += 1
        for sector, versions in self.cache.items():
            os.pwrite(self.file, versions[-1], sector * SECTOR)
        self.cache.clear()

    def cut(self):
        """The power goes. The caller holds the lock and never gives it back."""
        kept = 0
        for sector, versions in self.cache.items():
            if self.random.random() < self.keep:
                os.pwrite(self.file, self.random.choice(versions), sector * SECTOR)
                kept += 1
        total = len(self.cache)
        self.report = (f"at={self.instant} cached={total} kept={kept} lost={total - kept} "
                       f"writes={self.writes} flushes={self.flushes}")
        self.cut_done.set()

    def request(self, command, offset, data, length, fua):
        """Answers with the octets read. Does not return once the power has gone."""
        self.lock.acquire()
        if command == CMD_READ:
            answer = self.read(offset, length)
        elif command == CMD_WRITE:
            if self.instant == "in-write":
                # The sectors of the interrupted write count as cached: each may have arrived.
                self.write(offset, data, False)
                self.die()
            self.write(offset, data, fua)
            answer = b""
        else:
            if self.instant == "before-flush":
                self.die()
            self.flush()
            if self.instant == "after-flush":
                self.die()
            answer = b""
        self.lock.release()
        return answer

    def die(self):
        self.cut()
        threading.Event().wait()

    def power_off(self, instant, keep, seed):
        """Cuts the power at `instant`; of the cached sectors each stays with the probability `keep`."""
        with self.lock:
            self.random, self.keep, self.instant = random.Random(seed), keep, instant
        if instant == "now" or not self.cut_done.wait(INSTANT_PATIENCE):
            if self.lock.acquire(timeout=INSTANT_PATIENCE):
                if not self.cut_done.is_set():
                    self.instant = "now"
                    self.cut()
        self.cut_done.wait()
        return self.report


def exactly(conn, length):
    parts = bytearray()
    while len(parts) < length:
        piece = conn.recv(min(length - len(parts), 1 << 20))
        if not piece:
            raise EOFError
        parts += piece
    return bytes(parts)


def handshake(conn, disk):
    conn.sendall(struct.pack(">QQH", NBD_MAGIC, OPTION_MAGIC, 0b11))
    (flags,) = struct.unpack(">I", exactly(conn, 4))
    while True:
        magic, option, length = struct.unpack(">QII", exactly(conn, 16))
        if magic != OPTION_MAGIC or length > 4096:
            raise EOFError
        exactly(conn, length)
        if option == OPT_EXPORT_NAME:
            conn.sendall(struct.pack(">QH", disk.octets, TRANSMISSION_FLAGS) + (b"" if flags & 2 else bytes(124)))
            return
        if option == OPT_GO:
            info = struct.pack(">HQH", 0, disk.octets, TRANSMISSION_FLAGS)
            conn.sendall(struct.pack(">QIII", REPLY_MAGIC, option, REP_INFO, len(info)) + info)
            conn.sendall(struct.pack(">QIII", REPLY_MAGIC, option, REP_ACK, 0))
            return
        if option == OPT_ABORT:
            conn.sendall(struct.pack(">QIII", REPLY_MAGIC, option, REP_ACK, 0))
            raise EOFError
        conn.sendall(struct.pack(">QIII", REPLY_MAGIC, option, REP_ERR_UNSUP, 0))


def serve(conn, disk):
    handshake(conn, disk)
    while True:
        head = exactly(conn, 28)
        magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
        if magic != REQUEST_MAGIC or command == CMD_DISC:
            return
        sound = (length <= REQUEST_OCTETS_MAX and offset % SECTOR == 0 and length % SECTOR == 0
                 and offset + length <= disk.octets)
        data = exactly(conn, length) if command == CMD_WRITE else b""
        if command not in (CMD_READ, CMD_WRITE, CMD_FLUSH) or not sound and command != CMD_FLUSH:
            conn.sendall(struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, EINVAL, cookie))
            continue
        answer = disk.request(command, offset, data, length, bool(flags & FLAG_FUA))
        conn.sendall(struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, 0, cookie) + answer)


def main(path, image):
    """Serves `image` at the unix socket `path`. Standard input: `cut INSTANT KEEP SEED`, or its end to close."""
    disk = Disk(image)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)

    def accept():
        while True:
            conn, _ = listener.accept()
            try:
                serve(conn, disk)
            except (EOFError, OSError):
                pass
            conn.close()

    threading.Thread(target=accept, daemon=True).start()
    print("disk is ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words and words[0] == "cut":
            print("cut:", disk.power_off(words[1], float(words[2]), int(words[3])), flush=True)
            os._exit(0)
    # Power down in order: the guest has flushed all that it wanted to keep.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
