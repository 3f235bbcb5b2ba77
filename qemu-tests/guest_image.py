#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Builds the test guest: a Debian kernel as an ELF vmlinux and a small initramfs.

Everything comes from Debian packages: the kernel from a downloaded (never installed)
linux-image-*-cloud-amd64 package, the programs from the packages installed on this machine.
The result is kept in <folder>/<key>/, where the key covers the versions of all packages and
this room's own sources; a changed package gives a new folder.

Run by hand it prints the paths:  qemu-tests/guest_image.py [FOLDER]
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DEFAULT_FOLDER = ROOT / "build" / "guest"
INSTALL_DEPS = ROOT / "packaging" / "install-deps.sh"

PACKAGES = ("busybox-static", "e2fsprogs", "fio", "libc6", "libiscsi-bin", "lsscsi", "sg3-utils",
            "util-linux")
MODULES = ("virtio_pci", "virtio_blk")
# Loaded by the tests that need them, in this order, from the list /modules/NAME.
MORE_MODULES = {
    "scsi": ("virtio_scsi", "sd_mod", "sg"),
    "vfio": ("vfio_pci", "vfio_iommu_type1"),
}
SG_PROGRAMS = ("compare_and_write", "decode_sense", "get_lba_status", "inq", "luns", "modes",
               "opcodes", "persist", "raw", "readcap", "requests", "reset", "turs", "vpd",
               "wr_mode", "write_same", "xcopy")
PROGRAMS = ("/usr/sbin/mke2fs", "/usr/sbin/e2fsck", "/usr/sbin/blkdiscard", "/usr/bin/fio",
            "/usr/bin/iscsi-test-cu", "/usr/bin/lsscsi",
            *(f"/usr/bin/sg_{name}" for name in SG_PROGRAMS))
LINKS = {"/usr/sbin/mkfs.ext4": "mke2fs"}

# fio links Ceph and Gluster libraries (90 MB) for engines that no test here uses. The guest gets
# empty libraries with the same symbols in their place.
UNUSED_LIBRARIES = ("libgfapi", "libnbd", "librados", "librbd", "libpmemblk", "libpmem")

# The payload of a bzImage by its first bytes, and what unpacks it. The kernel's build appends
# the unpacked size (4 bytes) to all formats except gzip, which ends with it by itself.
PAYLOADS = (
    (b"\x1f\x8b", ["gzip", "-dc"], 0),
    (b"\xfd7zXZ\0", ["xz", "-dc"], 4),
    (b"\x02\x21\x4c\x18", ["lz4", "-dc"], 4),
    (b"\x28\xb5\x2f\xfd", ["zstd", "-dc"], 4),
)


class GuestImage(NamedTuple):
    vmlinux: Path
    initramfs: Path


class GuestImageError(Exception):
    """The guest cannot be built here; the text says what is missing."""


def run(*command: str, **kwargs) -> bytes:
    """Runs a program and returns its output; a failure becomes a GuestImageError."""
    try:
        return subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, **kwargs).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise GuestImageError(f"{' '.join(command)}: {reason}") from error
    except OSError as error:
        raise GuestImageError(f"{command[0]}: {error.strerror}") from error


def kernel_package(folder: Path) -> Path:
    """Returns the newest kernel package in the folder, downloading one if there is none."""
    packages = sorted(folder.glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime)
    if not packages:
        run(str(INSTALL_DEPS), "guest-kernel", env=dict(os.environ, GUEST_DIR=str(folder)))
        packages = sorted(folder.glob("linux-image-*.deb"))
    if not packages:
        raise GuestImageError(f"{INSTALL_DEPS} guest-kernel left no kernel package in {folder}")
    return packages[-1]


def extract_vmlinux(bzimage: bytes) -> bytes:
    """Unpacks the ELF kernel out of a bzImage (Linux, Documentation/x86/boot.rst)."""
    setup_sectors = bzimage[0x1f1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)   # payload_offset, _length
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start:start + length]
    for magic, command, trailer in PAYLOADS:
        if payload.startswith(magic):
            vmlinux = run(*command, input=payload[:len(payload) - trailer])
            break
    else:
        raise GuestImageError(f"unknown kernel compression {payload[:6].hex()}")
    if not vmlinux.startswith(b"\x7fELF"):
        raise GuestImageError("the kernel's payload is no ELF file")
    return vmlinux


def module_depends(module: Path) -> list[str]:
    """Names of the modules that a module needs, from its .modinfo section."""
    match = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in match.group(1).decode().split(",") if name] if match else []


def module_load_order(names, modules: dict[str, Path]) -> list[str]:
    """The given modules and all they need, each after what it needs. Names that are not in
    modules are built into the kernel."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in modules and name not in order:
            for needed in module_depends(modules[name]):
                visit(needed.replace("-", "_"))
            order.append(name)

    for name in names:
        visit(name)
    return order


def shared_libraries(program: str) -> list[str]:
    """Paths of the shared libraries that a program itself and the libraries kept for it need."""
    libraries: list[str] = []
    pending = [program]
    while pending:
        dynamic = run("objdump", "-p", pending.pop()).decode()
        needed = re.findall(r"NEEDED\s+(\S+)", dynamic)
        wanted = [name for name in needed if name.split(".so")[0] not in UNUSED_LIBRARIES]
        loaded = run("ldd", program).decode()
        for name in wanted:
            match = re.search(rf"^\s*{re.escape(name)} => (\S+)", loaded, re.M)
            if match and match.group(1) not in libraries:
                libraries.append(match.group(1))
                pending.append(match.group(1))
    return libraries


def empty_libraries(program: str) -> dict[str, bytes]:
    """Builds a stand-in for each unused library of a program: the symbols that the program
    takes, with their versions (it is linked with BIND_NOW), each of which traps if called."""
    dynamic = run("objdump", "-p", program).decode()
    unused = [name for name in re.findall(r"NEEDED\s+(\S+)", dynamic)
              if name.split(".so")[0] in UNUSED_LIBRARIES]
    if not unused:
        return {}
    versions: dict[str, str] = {}        # symbol version -> library
    for library, block in re.findall(r"required from (\S+):\n((?:\s+0x.*\n)+)", dynamic):
        for version in re.findall(r"(\S+)$", block, re.M):
            versions.setdefault(version, library)
    symbols: dict[str, dict[str, list[str]]] = {library: {} for library in unused}
    for line in run("nm", "-D", "--undefined-only", program).decode().splitlines():
        kind, symbol = line.split()
        name, _, version = symbol.partition("@")
        library = versions.get(version, "") if version else unused[0]
        if kind == "U" and library in symbols:
            symbols[library].setdefault(version, []).append(name)
    return {name: empty_library(name, by_version) for name, by_version in symbols.items()}


def empty_library(soname: str, symbols: dict[str, list[str]]) -> bytes:
    """Compiles one library that only has the given symbols, {version: [name, ...]}."""
    names = [name for group in symbols.values() for name in group]
    source = "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names)
    script = "".join(f"{version} {{ {' '.join(name + ';' for name in group)} }};\n"
                     for version, group in symbols.items() if version)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "map").write_text(script, encoding="ascii")
        options = [f"-Wl,--version-script={folder}/map"] if script else []
        run("gcc", "-shared", "-nostdlib", "-fno-builtin", "-w", "-x", "c", "-",
            f"-Wl,-soname,{soname}", *options, "-o", f"{folder}/lib", input=source.encode())
        return Path(folder, "lib").read_bytes()


class Cpio:
    """Writes an uncompressed newc archive (Linux, Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.names: set[str] = set()

    def add(self, path: str, mode: int, data: bytes = b"", device=(0, 0)) -> None:
        name = path.lstrip("/")
        parent = os.path.dirname(name)
        if parent and parent not in self.names:
            self.add(parent, stat.S_IFDIR | 0o755)
        self.names.add(name)
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self.parts += [header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)]

    def file(self, path: str, data: bytes, mode: int = 0o755) -> None:
        self.add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        self.add(path, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def build_initramfs(modules: dict[str, Path]) -> bytes:
    cpio = Cpio()
    for folder in ("proc", "sys", "tmp", "mnt"):
        cpio.add(folder, stat.S_IFDIR | 0o755)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.file("init", (HERE / "guest_init.sh").read_bytes())
    order = module_load_order(MODULES, modules)
    lists = {"order": order}
    for group, names in MORE_MODULES.items():
        lists[group] = [name for name in module_load_order(names, modules) if name not in order]
    for name in sorted({name for names in lists.values() for name in names}):
        cpio.file(f"modules/{name}.ko", modules[name].read_bytes(), 0o644)
    for group, names in lists.items():
        cpio.file(f"modules/{group}", "\n".join(names).encode() + b"\n", 0o644)

    cpio.file("bin/busybox", Path("/bin/busybox").read_bytes())
    for applet in run("/bin/busybox", "--list").decode().split():
        if applet != "busybox":
            cpio.link(f"bin/{applet}", "busybox")
    for link, target in LINKS.items():
        cpio.link(link, target)
    libraries: set[str] = set()
    for program in PROGRAMS:
        cpio.file(program, Path(program).read_bytes())
        libraries.update(shared_libraries(program))
        for name, data in empty_libraries(program).items():
            cpio.file(f"/lib/{name}", data)
    for library in sorted(libraries):
        cpio.file(f"/lib/{os.path.basename(library)}", Path(library).read_bytes())
    cpio.file("/lib64/ld-linux-x86-64.so.2", Path("/lib64/ld-linux-x86-64.so.2").read_bytes())
    return cpio.finish()


def add_programs(image: GuestImage, programs: list[Path], folder: Path) -> GuestImage:
    """Returns the image with programs of ours, in /bin, and the libraries they need. The kernel
    takes archives one after the other (Documentation/driver-api/early-userspace/buffer-format)."""
    cpio = Cpio()
    libraries: set[str] = set()
    for program in programs:
        cpio.file(f"bin/{program.name}", program.read_bytes())
        libraries.update(shared_libraries(str(program)))
    for library in sorted(libraries):
        cpio.file(f"/lib/{os.path.basename(library)}", Path(library).read_bytes())
    initramfs = folder / "initramfs"
    initramfs.write_bytes(image.initramfs.read_bytes() + cpio.finish())
    return image._replace(initramfs=initramfs)


def build(target: Path, package: Path) -> None:
    """Writes vmlinux and initramfs into the target folder."""
    with tempfile.TemporaryDirectory() as unpacked:
        run("dpkg-deb", "-x", str(package), unpacked)
        bzimage = next(Path(unpacked, "boot").glob("vmlinuz-*"), None)
        if bzimage is None:
            raise GuestImageError(f"{package}: no kernel in it")
        modules = {path.stem.replace("-", "_"): path for path in Path(unpacked).rglob("*.ko")}
        wanted = (*MODULES, *(name for names in MORE_MODULES.values() for name in names))
        missing = [name for name in wanted if name not in modules]
        if missing:
            raise GuestImageError(f"{package}: no module {' '.join(missing)} in it")
        (target / "vmlinux").write_bytes(extract_vmlinux(bzimage.read_bytes()))
        (target / "initramfs").write_bytes(build_initramfs(modules))


def image_key(package: Path) -> str:
    """Names the image by all that goes into it."""
    versions = run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\\n",
                   *PACKAGES)
    digest = hashlib.sha256(package.name.encode() + versions)
    for source in ("guest_image.py", "guest_init.sh"):
        digest.update((HERE / source).read_bytes())
    return digest.hexdigest()[:16]


def guest_image(folder: Path = DEFAULT_FOLDER) -> GuestImage:
    """Returns the guest's files, building them if they are not there. Safe to be called by
    several processes at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        package = kernel_package(folder)
        target = folder / image_key(package)
        if not target.exists():
            temporary = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
            try:
                build(temporary, package)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return GuestImage(target / "vmlinux", target / "initramfs")


if __name__ == "__main__":
    try:
        print(*guest_image(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER), sep="\n")
    except GuestImageError as failure:
        sys.exit(f"{sys.argv[0]}: {failure}")
