"""The virtual machine: what it needs from Debian, its first file system, one boot of it.

Limits
  Every wait for the guest has a bound in seconds; a guest that says nothing is killed with its last words shown.
"""

import lzma
import os
import queue
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = {"qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs"}
# A path in what ldd says.
LIBRARY = re.compile(r"(/\S+) \(0x")
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "overlay")
MEMORY_MIB = 1024
DISK_MIB = 8192
# Seconds; the emulated machine shares two cores with whatever else runs.
BOOT_PATIENCE = 240
COMMAND_PATIENCE = 240
LINES_MAX = 10_000

CONFIGURATION = """\
hostname = "guest.example.test"
shards = {shards}

[storage]
url = "file:///data"

[[listener]]
service = "imap"
address = "0.0.0.0:143"

[[listener]]
service = "lmtp"
address = "0.0.0.0:24"

[users]
passwd_file = "/etc/passwd-culver"
secure_networks = ["10.0.2.0/24"]
"""


class Skipped(Exception):
    """This machine cannot run the test; the text says why."""


class GuestError(Exception):
    """The guest did not do what it was told."""


def busybox():
    """A statically linked busybox, or None: the guest has no other libraries than culver's."""
    for path in ("/usr/bin/busybox", "/bin/busybox"):
        if os.path.exists(path):
            with open(path, "rb") as file:
                # A dynamic one names its interpreter in the first page.
                if b"/ld-linux" not in file.read(4096):
                    return path
    return None


def install(say):
    """Installs what is missing, or raises Skipped."""
    missing = [package for name, package in PACKAGES.items() if not which(name)]
    if busybox() is None:
        missing.append("busybox-static")
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Skipped(f"needs {' '.join(missing)}, and there is no apt-get")
    if os.geteuid() != 0:
        raise Skipped(f"needs {' '.join(missing)}; installing them needs root")
    say(f"installing {' '.join(missing)}")
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for update_first in (False, True):
        if update_first:
            subprocess.run(["apt-get", "update"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if done.returncode == 0:
            return
    raise Skipped(f"apt-get install {' '.join(missing)}: {done.stderr.decode(errors='replace').strip()[-300:]}")


def which(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def kernel(cache):
    """The directory of Debian's unpacked cloud kernel, downloaded once into `cache`."""
    root = os.path.join(cache, "kernel")
    if os.path.isdir(root):
        return root
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Skipped("needs Debian's kernel package, and there is no apt-get and dpkg-deb")
    part = root + f".{os.getpid()}"
    os.makedirs(part)
    try:
        for update_first in (False, True):
            if update_first:
                subprocess.run(["apt-get", "update"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            shown = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True)
            names = re.findall(r"Depends: (linux-image-\S+)", shown.stdout)
            if names:
                subprocess.run(["apt-get", "download", names[0]], cwd=part, capture_output=True, check=False)
            packages = [name for name in os.listdir(part) if name.endswith(".deb")]
            if packages:
                break
        else:
            raise Skipped("apt-get download of linux-image-cloud-amd64's kernel failed")
        package = os.path.join(part, packages[0])
        subprocess.run(["dpkg-deb", "-x", package, part], check=True)
        os.remove(package)
        os.rename(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _read_module(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rb") as file:
        return file.read()


def modules(root, wanted=MODULES):
    """(name, content) of the modules the guest loads, each after those it depends on."""
    files = {}
    for directory, _, names in os.walk(os.path.join(root, "lib/modules")):
        for name in names:
            if name.endswith((".ko", ".ko.xz")):
                files[name.partition(".")[0].replace("-", "_")] = os.path.join(directory, name)
    order = []

    def add(name):
        if name not in files or any(name == known for known, _ in order):
            return
        content = _read_module(files[name])
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in (found.group(1).decode() if found else "").split(","):
            add(needed.replace("-", "_"))
        order.append((name, content))

    for name in wanted:
        add(name)
    return order


class Archive:
    """A cpio archive in the newc format, as the kernel unpacks it."""

    def __init__(self, file):
        self.file = file
        self.inode = 0
        self.directories = set()

    def _entry(self, name, mode, data):
        self.inode += 1
        encoded = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._padded(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        self._padded(data)

    def _padded(self, data):
        self.file.write(data + bytes(-len(data) % 4))

    def directory(self, name):
        if name and name not in self.directories:
            self.directory(os.path.dirname(name))
            self.directories.add(name)
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def add(self, name, data, mode=0o755):
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, data)

    def close(self):
        self._entry("TRAILER!!!", 0, b"")


def initrd(path, kernel_root, binary, users, shards):
    """Writes the guest's first file system: busybox, modules, culver with its libraries and configuration."""
    work = os.path.dirname(path)
    stripped = os.path.join(work, "culver")
    # Symbols are most of a debug build, and all of this is read by an emulated machine.
    strip = shutil.which("strip")
    if not strip or subprocess.run([strip, "-o", stripped, binary], check=False).returncode != 0:
        shutil.copy(binary, stripped)
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    libraries = LIBRARY.findall(listed)
    with open(path, "wb") as file:
        archive = Archive(file)
        for name in ("bin", "dev", "proc", "sys", "etc", "tmp"):
            archive.directory(name)
        for name, source in (("init", os.path.join(HERE, "init")), ("bin/busybox", busybox()), ("bin/culver", stripped)):
            with open(source, "rb") as content:
                archive.add(name, content.read())
        for library in libraries:
            with open(library, "rb") as content:
                archive.add(library.lstrip("/"), content.read())
        loaded = modules(kernel_root)
        for name, content in loaded:
            archive.add(f"modules/{name}.ko", content, 0o644)
        archive.add("modules/order", "".join(f"{name}.ko\n" for name, _ in loaded).encode(), 0o644)
        archive.add("etc/culver.toml", CONFIGURATION.format(shards=shards).encode(), 0o644)
        archive.add("etc/passwd-culver", "".join(f"{u}:{{PLAIN}}{p}\n" for u, p in users).encode(), 0o644)
        archive.add("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)
        archive.close()


def new_image(path):
    with open(path, "wb") as file:
        file.truncate(DISK_MIB * 1024 * 1024)
    subprocess.run([which("mkfs.ext4"), "-q", "-F", path], check=True, capture_output=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Guest:
    """One boot: the disk server, QEMU, and the console between. Use as a context: its end kills both."""

    def __init__(self, work, kernel_root, image, verbose):
        self.verbose = verbose
        self.lines = queue.Queue(LINES_MAX)
        self.last = []
        self.imap, self.lmtp = free_ports(2)
        self.qemu = None
        path = os.path.join(work, "disk.sock")
        if os.path.exists(path):
            os.remove(path)
        self.disk = subprocess.Popen([sys.executable, os.path.join(HERE, "disk.py"), path, image],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if self.disk.stdout.readline() != "disk is ready\n":
                raise GuestError("the disk server did not start")
            boot = os.path.join(kernel_root, "boot")
            vmlinuz = next(os.path.join(boot, n) for n in os.listdir(boot) if n.startswith("vmlinuz"))
            forwards = f"hostfwd=tcp:127.0.0.1:{self.imap}-:143,hostfwd=tcp:127.0.0.1:{self.lmtp}-:24"
            self.qemu = subprocess.Popen(
                ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                 "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
                 "-kernel", vmlinuz, "-initrd", os.path.join(work, "initrd"),
                 "-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off nokaslr tsc=reliable",
                 # Writes go to the disk server as the guest issues them; what is cached is cached there.
                 "-blockdev", f"driver=nbd,node-name=d,server.type=unix,server.path={path}",
                 "-device", "virtio-blk-pci,drive=d,write-cache=on",
                 "-netdev", f"user,id=n,restrict=on,{forwards}", "-device", "virtio-net-pci,netdev=n,romfile=",
                 "-serial", "stdio"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            threading.Thread(target=self._listen, daemon=True).start()
            self.uptime = self._await("up", BOOT_PATIENCE)
        except BaseException:
            self.close()
            raise

    def _listen(self):
        for raw in self.qemu.stdout:
            line = raw.decode(errors="replace").strip()
            if self.verbose:
                print(f"    | {line}", flush=True)
            self.last = (self.last + [line])[-60:]
            if "guest: " in line:
                self.lines.put(line.partition("guest: ")[2])
        self.lines.put("gone")

    def _await(self, word, patience):
        until = time.monotonic() + patience
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise GuestError(f"no answer to {word!r} within {patience} s:\n" + "\n".join(self.last)) from None
            if line == "gone":
                self.lines.put("gone")
                raise GuestError(f"the guest went away before {word!r}:\n" + "\n".join(self.last))
            if line.split()[:1] == [word]:
                return line.split()[1]

    def send(self, text):
        self.qemu.stdin.write(text.encode() + b"\n")
        self.qemu.stdin.flush()

    def tell(self, command, argument=""):
        """Runs a command of the guest's init; gives its exit status."""
        self.send(f"{command} {argument}".strip())
        return int(self._await(command, COMMAND_PATIENCE))

    def must(self, command, argument=""):
        status = self.tell(command, argument)
        if status != 0:
            raise GuestError(f"{command}: status {status}:\n" + "\n".join(self.last))

    def power_off(self, instant, keep, seed):
        """Cuts the power: the disk stops first, then the machine dies with its memory. Gives the disk's report."""
        self.disk.stdin.write(f"cut {instant} {keep} {seed}\n")
        self.disk.stdin.flush()
        report = self.disk.stdout.readline().strip()
        self.qemu.kill()
        return report

    def shut_down(self):
        """Unmounts, so that the disk gets everything, and ends the machine."""
        self.send("off")
        self.qemu.wait(COMMAND_PATIENCE)

    def close(self):
        for process in (self.qemu, self.disk):
            if process is None:
                continue
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    pipe.close()
                except OSError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
