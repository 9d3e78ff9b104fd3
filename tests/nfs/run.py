#!/usr/bin/env python3
"""The laws of stores and the kill test of two nodes on NFS, in an emulated machine: see README.md.

Limits
  --minutes for all that happens in the guest; a guest that is not done by then is killed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
WORKSPACE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(WORKSPACE, "tests/powercut"))

import guest  # noqa: E402

MODULES = ("virtio_pci", "virtio_blk", "nfsd", "nfsv4", "rpcsec_gss_krb5")
PACKAGES = {"exportfs": "nfs-kernel-server", "mount.nfs4": "nfs-common"}
# What libraries read.
SETTINGS = ("etc/netconfig", "etc/services", "etc/protocols")
MEMORY_MIB = 2048


def say(text):
    print(text, flush=True)


def built(arguments):
    """The binaries: those that were named, and else those that cargo makes."""
    command = ["cargo", "test", "--release", "--no-run", "--locked", "--message-format=json"]
    wanted = {"e2e": ["--test", "e2e"], "laws": ["-p", "culver-storage", "--test", "laws"]}
    found = {"culver": arguments.binary, "e2e": arguments.e2e, "laws": arguments.laws}
    for name, words in wanted.items():
        if found[name]:
            continue
        output = subprocess.run(command + words, cwd=WORKSPACE, stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in output.splitlines():
            message = json.loads(line)
            if message.get("executable") and message["target"]["name"] in ("culver", name):
                found[message["target"]["name"]] = found.get(message["target"]["name"]) or message["executable"]
    return found


class Files:
    """The guest's first file system: programs, each with the libraries that it is linked with."""

    def __init__(self, path, work):
        self.file = open(path, "wb")
        self.archive = guest.Archive(self.file)
        self.work, self.libraries = work, set()

    def copy(self, name, source):
        with open(source, "rb") as content:
            self.archive.add(name, content.read())

    def program(self, name, source):
        # Symbols are most of a build, and all of this is read by an emulated machine.
        stripped = os.path.join(self.work, "stripped")
        strip = shutil.which("strip")
        if not strip or subprocess.run([strip, "-o", stripped, source], check=False).returncode != 0:
            shutil.copy(source, stripped)
        self.copy(name, stripped)
        listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
        for library in guest.LIBRARY.findall(listed):
            if library not in self.libraries:
                self.libraries.add(library)
                self.copy(library.lstrip("/"), library)

    def close(self):
        self.archive.close()
        self.file.close()


def initrd(path, work, kernel, programs, script):
    files = Files(path, work)
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "root", os.path.join(WORKSPACE, "tests/transcripts").lstrip("/")):
        files.archive.directory(name)
    files.copy("init", os.path.join(HERE, "init"))
    files.copy("bin/busybox", guest.busybox())
    for name in ("exportfs", "rpc.mountd", "rpc.nfsd", "mount.nfs4"):
        files.program(f"usr/sbin/{name}", guest.which(name))
    for name, source in programs.items():
        files.program(f"bin/{name}", source)
    for name in SETTINGS:
        if os.path.exists(f"/{name}"):
            files.copy(name, f"/{name}")
    modules = guest.modules(kernel, MODULES)
    for name, content in modules:
        files.archive.add(f"modules/{name}.ko", content, 0o644)
    files.archive.add("modules/order", "".join(f"{name}.ko\n" for name, _ in modules).encode(), 0o644)
    files.archive.add("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)
    files.archive.add("run.sh", script.encode())
    files.close()


def run(arguments, work, kernel, programs):
    script = ""
    if not arguments.no_laws:
        script += "laws --exact a_shared_directory_keeps_the_laws --nocapture; echo \"guest: laws $?\"\n"
    if arguments.takeovers:
        script += f"export CULVER_TEST_TAKEOVERS={arguments.takeovers} CULVER_TEST_SLOW={arguments.slow}\n"
        if arguments.seed:
            script += f"export CULVER_TEST_SEED={arguments.seed}\n"
        script += "e2e --exact nodes_nothing_is_lost_on_a_shared_directory; echo \"guest: nodes $?\"\n"
    script += arguments.then + "\n"
    image = os.path.join(work, "disk")
    guest.new_image(image)
    initrd(os.path.join(work, "initrd"), work, kernel, programs, script)
    boot = os.path.join(kernel, "boot")
    vmlinuz = next(os.path.join(boot, n) for n in os.listdir(boot) if n.startswith("vmlinuz"))
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
         "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
         "-kernel", vmlinuz, "-initrd", os.path.join(work, "initrd"),
         "-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off nokaslr tsc=reliable",
         # Nothing here depends on what a power cut leaves.
         "-drive", f"file={image},format=raw,if=virtio,cache=unsafe",
         "-nic", "none", "-serial", "stdio"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # Ends with the guest; the pipe closes.
    late = threading.Timer(arguments.minutes * 60, qemu.kill)
    late.start()
    told = {}
    try:
        for raw in qemu.stdout:
            line = raw.decode(errors="replace").rstrip()
            say(f"  | {line}")
            words = line.partition("guest: ")[2].split()
            if len(words) == 2:
                told[words[0]] = words[1]
    finally:
        late.cancel()
        qemu.kill()
        qemu.wait()
    wanted = ["mount"] + ["laws"] * (not arguments.no_laws) + ["nodes"] * bool(arguments.takeovers)
    wrong = [name for name in wanted if told.get(name) != "0"]
    if wrong:
        say(f"nfs: failed: {', '.join(f'{name} {told.get(name)}' for name in wrong)}")
        return 1
    say(f"nfs: {', '.join(wanted)}: ok")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--takeovers", type=int, default=20)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--slow", type=int, default=8, help="how many times longer than elsewhere the kill test waits")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--no-laws", action="store_true")
    parser.add_argument("--then", default="", help="a line for the guest's shell, at the end")
    parser.add_argument("--binary", help="culver; without it, what cargo builds")
    parser.add_argument("--e2e", help="the end-to-end tests' binary")
    parser.add_argument("--laws", help="the laws' binary")
    parser.add_argument("--cache", default=os.path.join(WORKSPACE, "target/powercut"), help="where the kernel is kept")
    arguments = parser.parse_args()
    try:
        guest.PACKAGES.update(PACKAGES)
        guest.install(say)
        kernel = guest.kernel(arguments.cache)
    except guest.Skipped as why:
        say(f"nfs: skipped: {why}")
        return 0
    programs = built(arguments)
    with tempfile.TemporaryDirectory(prefix="culver-nfs-") as work:
        return run(arguments, work, kernel, programs)


if __name__ == "__main__":
    sys.exit(main())
