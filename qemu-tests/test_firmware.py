# SPDX-License-Identifier: BSD-3-Clause
"""SeaBIOS and OVMF boot from the disk: with QEMU's default properties they use one queue, and
OVMF the legacy interface, without VERSION_1."""

import shutil
import subprocess
from pathlib import Path

import pytest

from guest import Qemu, disk_arguments, machine_arguments

HERE = Path(__file__).resolve().parent
# A change of the text, which is on the disk, tells one run from another.
MARKER = "this program came from the disk"
OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"


def assemble(folder: Path, source: str, address: int, *options: str) -> bytes:
    """Assembles a source of this folder into a flat binary for that address."""
    part, flat = folder / f"{source}.o", folder / f"{source}.bin"
    subprocess.run(["gcc", "-c", "-x", "assembler-with-cpp", *options, str(HERE / source),
                    "-o", str(part)], check=True, timeout=60)
    # The linker's script names one section, so that nothing of its own gets into the binary.
    script = folder / "flat.ld"
    script.write_text("SECTIONS { . = %d; .text : { *(.text) } /DISCARD/ : { *(*) } }" % address)
    subprocess.run(["ld", "-T", str(script), "--oformat", "binary", str(part), "-o", str(flat)],
                   check=True, timeout=60)
    return flat.read_bytes()


def write_bios_disk(image: Path, folder: Path) -> None:
    """A boot sector, and the text that it prints in sector 8."""
    with open(image, "r+b") as disk:
        disk.write(assemble(folder, "boot_sector.S", 0x7c00))
        disk.seek(8 * 512)
        disk.write(MARKER.encode() + b"\n\0")


def write_efi_disk(image: Path, folder: Path) -> None:
    """A FAT file system with the program where firmware looks for it on any disk."""
    program = folder / "bootx64.efi"
    program.write_bytes(assemble(folder, "efi_program.S", 0, f'-DMARKER="{MARKER}"'))
    for command in (["mkfs.fat", str(image)],
                    ["mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"],
                    ["mcopy", "-i", str(image), str(program), "::/EFI/BOOT/BOOTX64.EFI"]):
        subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)


def ovmf_arguments(folder: Path) -> list[str]:
    """QEMU arguments for OVMF with variables of its own."""
    shutil.copy(OVMF_VARIABLES, folder / "vars.fd")
    return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}",
            "-drive", f"if=pflash,unit=1,format=raw,file={folder}/vars.fd"]


# Default properties on the root bus make a transitional device; a PCIe port makes a modern one.
ON_ROOT_BUS: list[str] = []
ON_PORT = ["-device", "pcie-root-port,id=port0"]
BUSES = pytest.mark.parametrize("port, properties", [(ON_ROOT_BUS, ""), (ON_PORT, "bus=port0")],
                                ids=["transitional", "modern"])


@BUSES
@pytest.mark.parametrize("cpus", [1, 2])
def test_seabios(vhostd, folder, start_qemu, port, properties, cpus):
    image = vhostd.image(size=8 << 20)
    write_bios_disk(image, folder)
    disk = disk_arguments([vhostd.serve(image)], properties)
    qemu = start_qemu(Qemu(folder, [*machine_arguments(cpus=cpus), *port, *disk]))
    qemu.wait_console(MARKER)


@BUSES
def test_ovmf(vhostd, folder, start_qemu, port, properties):
    firmware = ovmf_arguments(folder)
    image = vhostd.image(size=8 << 20)
    write_efi_disk(image, folder)
    disk = disk_arguments([vhostd.serve(image)], properties)
    qemu = start_qemu(Qemu(folder, [*machine_arguments(cpus=2), *firmware, *port, *disk]))
    qemu.wait_console(MARKER)


def test_seabios_reset(vhostd, folder, start_qemu):
    """Reset while the firmware has the disk; it boots from it again, now with another text."""
    image = vhostd.image(size=8 << 20)
    write_bios_disk(image, folder)
    disk = disk_arguments([vhostd.serve(image)])
    qemu = start_qemu(Qemu(folder, [*machine_arguments(), *disk]))
    qemu.wait_console(MARKER)
    with open(image, "r+b") as disk_file:
        disk_file.seek(8 * 512)
        disk_file.write(b"the second time\n\0")
    qemu.qmp.command("system_reset")
    qemu.wait_console("the second time")
