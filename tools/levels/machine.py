"""An x86-64 machine emulated by Bochs, whose processor has AVX-512, VNNI and BF16: results only, no speed.

Bochs interprets whole machines, and unlike QEMU it knows AVX-512. A CD made here boots Debian's kernel with one program
(`init.c`), which takes jobs from a disk image that both sides write: files, a command, and the files wanted back.
Between jobs the emulator is stopped, so that a waiting machine costs nothing.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECTOR, FIRST, MAGIC = 512, 8, 0x434D4158
_END, _FILE, _LINK, _ARGUMENT, _OUTPUT = range(5)
_PATIENCE = 20  # what a busy machine takes longer than an idle one, at most
_CYLINDER = 16 * 63 * SECTOR
_SCREEN = re.compile(rb'connected to screen "([^"]+)"')
_INIT = Path(__file__).with_name("init.c")
_ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
_LOADER = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")

PACKAGES = "bochs, bochs-term, isolinux, syslinux-common, genisoimage, cpio, a linux-image and libc6-dev"
PROCESSOR = "sapphire_rapids"
"""Bochs' model with the instructions of all levels; so nothing is said of whether a level keeps to its own."""


@dataclass(frozen=True)
class Done:
    """What a job gave: exit status (negative: the signal that ended it), what it printed, and the files asked for."""

    status: int
    printed: str
    files: dict[str, bytes]


def bochs() -> str:
    """The emulator: ``XAMC_BOCHS``, or ``bochs`` on the path."""
    return os.environ.get("XAMC_BOCHS", "bochs")


def kernel_image() -> Path | None:
    """The kernel that boots: ``XAMC_GUEST_KERNEL``, or the newest of this machine's."""
    if "XAMC_GUEST_KERNEL" in os.environ:
        return Path(os.environ["XAMC_GUEST_KERNEL"])
    found = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def missing() -> str | None:
    """What this machine lacks for emulating another, or None."""
    lacking = [name for name in (bochs(), "genisoimage", "cpio", "gcc") if not shutil.which(name)]
    lacking += [str(path) for path in (_ISOLINUX, _LOADER) if not path.exists()]
    image = kernel_image()
    if image is None or not image.exists():
        lacking.append("a kernel (XAMC_GUEST_KERNEL)")
    return f"needs Debian's {PACKAGES}; missing: {', '.join(lacking)}" if lacking else None


class Machine:
    """One emulated machine, from booting it until `close`.

    Args:
        model: Bochs' name of the processor.
        memory: MiB of memory, which also holds the files.
        disk: MiB that a job's files and its outputs may have together.
        boot_s: seconds of CPU time until it must have booted.
    """

    def __init__(self, model: str, memory: int = 512, disk: int = 256, boot_s: float = 900) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xamc-machine-"))
        self.cylinders = -(-disk * 2**20 // _CYLINDER)
        self.number = 0
        with open(self.folder / "disk", "wb") as file:
            file.truncate(self.cylinders * _CYLINDER)
        self.image: IO[bytes] = (self.folder / "disk").open("r+b", buffering=0)
        self._make_cd()
        self._configure(model, memory)
        command = [bochs(), "-q", "-f", "bochsrc"]
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        threading.Thread(target=self._discard, daemon=True).start()
        try:
            self._wait(lambda: b"init: ready" in self._console(), boot_s, "booting")
        except BaseException:
            self.close()
            raise
        self._pause()

    def run(
        self,
        command: Sequence[str],
        files: Mapping[str, bytes | Path] | None = None,
        links: Mapping[str, str] | None = None,
        outputs: Iterable[str] = (),
        timeout_s: float = 900,
    ) -> Done:
        """Writes `files` (by absolute path; a Path's content and mode are copied) and `links`, and runs `command`.

        Raises:
            TimeoutError: no answer after `timeout_s` of the emulator's CPU time.
            RuntimeError: the emulator ended.
        """
        outputs = list(outputs)
        self.image.seek(FIRST * SECTOR)
        for name, content in (files or {}).items():
            data = content.read_bytes() if isinstance(content, Path) else content
            mode = content.stat().st_mode & 0o777 if isinstance(content, Path) else 0o755
            self._record(_FILE, name, data, mode)
        for name, to in (links or {}).items():
            self._record(_LINK, name, to.encode())
        for argument in command:
            self._record(_ARGUMENT, argument)
        for name in outputs:
            self._record(_OUTPUT, name)
        self._record(_END, "")
        reply = self.image.tell() // SECTOR + 1
        self.number += 1
        self.image.seek(0)
        self.image.write(struct.pack("<IIQ", MAGIC, self.number, reply))
        self._signal(signal.SIGCONT)
        try:
            self._wait(
                lambda: self._answer()[:2] == (MAGIC, self.number), timeout_s, command[0] if command else "files"
            )
        finally:
            self._pause()
        status = self._answer()[2]
        self.image.seek(reply * SECTOR)
        got = {name: self._output() for name in ["", *outputs]}
        printed = (got.pop("") or b"").decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        return Done(code, printed, {name: data for name, data in got.items() if data is not None})

    def close(self) -> None:
        """Ends the emulator and removes its files."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.image.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_cd(self) -> None:
        cd, root = self.folder / "cd", self.folder / "root"
        for path in (cd, root):
            path.mkdir()
        command = ["gcc", "-static", "-O1", str(_INIT), "-o", str(root / "init")]
        subprocess.run(command, check=True, capture_output=True)
        archive = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=b"init\n", check=True, capture_output=True
        ).stdout
        (cd / "initrd").write_bytes(archive)
        image = kernel_image()
        assert image is not None, missing()
        shutil.copy(image, cd / "vmlinuz")
        for path in (_ISOLINUX, _LOADER):
            shutil.copy(path, cd)
        # Without ACPI nothing enters the system management mode, which Bochs 3.0 leaves wrongly.
        options = "console=ttyS0,115200 mitigations=off nokaslr acpi=off panic=-1 random.trust_cpu=on"
        (cd / "isolinux.cfg").write_text(
            f"default linux\nlabel linux\nkernel vmlinuz\nappend initrd=initrd {options}\n"
        )
        boot = ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
        command = ["genisoimage", "-quiet", "-o", str(self.folder / "cd.iso"), *boot, str(cd)]
        subprocess.run(command, check=True, capture_output=True)

    def _configure(self, model: str, memory: int) -> None:
        # The kernel can't switch AMX on by halves, as an emulated processor without XFD asks for. With `tpause` in its
        # delay loops the emulator would sleep a millisecond of ours for a microsecond of its own.
        excluded = ', exclude_features="la57,amx,amx_int8,amx_bf16,waitpkg"' if model == "sapphire_rapids" else ""
        lines = f"""megs: {memory}
cpu: model={model}, count=1, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=1{excluded}
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
display_library: term
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk, mode=flat, cylinders={self.cylinders}, heads=16, spt=63
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path=cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=console
clock: sync=none
log: log
panic: action=fatal
error: action=ignore
info: action=ignore
"""
        (self.folder / "bochsrc").write_text(lines)

    def _console(self) -> bytes:
        path = self.folder / "console"
        return path.read_bytes() if path.exists() else b""

    def _record(self, kind: int, name: str, data: bytes = b"", mode: int = 0) -> None:
        encoded = name.encode()
        self.image.write(struct.pack("<IIIIQ", kind, mode, len(encoded), 0, len(data)) + encoded)
        view = memoryview(data)
        while view:
            view = view[self.image.write(view) :]

    def _answer(self) -> tuple[int, int, int]:
        self.image.seek(SECTOR)
        magic, number, status = struct.unpack("<IIi", self.image.read(12))
        return magic, number, status

    def _output(self) -> bytes | None:
        (length,) = struct.unpack("<Q", self.image.read(8))
        return None if length == 2**64 - 1 else self.image.read(length)

    def _wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        computed, end = self._computed(), time.monotonic() + _PATIENCE * timeout_s
        while not ready():
            if self.process.poll() is not None:
                log = self.folder / "log"
                text = log.read_text(errors="replace")[-1000:] if log.exists() else ""
                raise RuntimeError(f"the emulator ended while {what}: {text}")
            if self._computed() - computed > timeout_s or time.monotonic() > end:
                tail = self._console()[-1000:].decode(errors="replace")
                raise TimeoutError(f"{what} took more than {timeout_s} s in the emulator; its console: {tail}")
            time.sleep(0.02)

    def _computed(self) -> float:
        """Seconds of CPU time of the emulator, which computes also while its machine waits."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, which the next look at it finds
            return 0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _discard(self) -> None:
        """Reads what the emulator prints and, on a terminal that it makes and names there, draws: nobody looks at it,
        but once a terminal's buffer is full, whoever writes to it waits."""
        printed, terminals = b"", [self.terminal]
        while terminals:
            for terminal in select.select(terminals, [], [])[0]:
                try:
                    data = os.read(terminal, 65536)
                except OSError:  # the other side is gone
                    data = b""
                if not data:
                    terminals.remove(terminal)
                    os.close(terminal)
                elif terminal == self.terminal:
                    printed += data
            if len(terminals) == 1 and (screen := _SCREEN.search(printed)):
                terminals.append(os.open(screen[1], os.O_RDONLY | os.O_NOCTTY))
                tty.setraw(terminals[-1])  # else it would wait for whole lines, and answer with an echo
                printed = b""
