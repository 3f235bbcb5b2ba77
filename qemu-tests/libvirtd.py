# SPDX-License-Identifier: BSD-3-Clause
"""A libvirtd of the test's own, and guests that it runs. Folders of the test's are mounted over
/etc (a copy), /run and /var in namespaces that only this libvirtd and its guests are in: the machine
stays as it was, and whatever they leave ends with the namespace."""

import shutil
import signal
import socket
import subprocess
import uuid
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from daemon import DEADLINE, stop_process, wait_until
from guest import KERNEL_ARGUMENTS, Channel, Guest
from guest_image import GuestImage

PROGRAMS = ("libvirtd", "nsenter", "unshare", "virsh")
# Debian's libvirt-daemon-system makes them; libvirt does not start without.
ACCOUNTS = {"passwd": ["libvirt-qemu:x:64055:{kvm}::/:/bin/false"],
            "group": ["kvm:x:64056:", "libvirt-qemu:x:64055:libvirt-qemu"]}
PORTS = 3               # for disks that come later

# Nothing in there installs packages; what is installed can be asked. The shell stays as the namespace's process 1: it takes the orphans that libvirt waits for.
SETUP = """
mount --make-rprivate /
mount --bind /var/lib/dpkg "$0/var/lib/dpkg"
mount -o remount,bind,ro "$0/var/lib/dpkg"
mount --bind "$0/etc" /etc
mount --rbind "$0/var" /var
mount --bind "$0/run" /run
libvirtd --config /etc/libvirt/libvirtd.conf &
wait
"""

QEMU_CONF = """
user = "{user}"
group = "{group}"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if not shutil.which(name)]


class Libvirtd:
    """One libvirtd with all it needs in one folder, which the user of QEMU may reach."""

    def __init__(self, folder: Path, user: str = "root", group: str = "root") -> None:
        self.folder = folder / "libvirt"
        self.log = folder / "libvirtd.log"
        self.process: subprocess.Popen | None = None
        shutil.copytree("/etc", self.folder / "etc", symlinks=True,
                        ignore=shutil.ignore_patterns("libvirt", "*shadow*", "private", "ssh"))
        for name in ("etc/libvirt", "run", "var/lib/dpkg", "var/log", "var/cache", "var/tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "var/run").symlink_to("/run")
        (self.folder / "etc/libvirt/libvirtd.conf").write_text('log_outputs = "2:stderr"\nauth_unix_rw = "none"\n')
        (self.folder / "etc/libvirt/qemu.conf").write_text(QEMU_CONF.format(user=user, group=group))
        self.add_accounts()
        self.socket = self.folder / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"

    def add_accounts(self) -> None:
        """Adds those that the machine does not have."""
        kvm = ""
        for name in ("group", "passwd"):
            path = self.folder / "etc" / name
            lines = path.read_text().splitlines()
            known = {line.split(":")[0] for line in lines}
            lines += [line.format(kvm=kvm) for line in ACCOUNTS[name] if line.split(":")[0] not in known]
            path.write_text("\n".join(lines) + "\n")
            kvm = kvm or next(line.split(":")[2] for line in lines if line.startswith("kvm:"))

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "sh", "-eu", "-c", SETUP, str(self.folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.is_ready, "libvirtd answering", 0.1)

    def is_ready(self) -> bool:
        status = self.process.poll()
        assert status is None, f"libvirtd's namespace ended with status {status}"
        return self.socket.exists() and self.try_virsh("uri").returncode == 0

    def stop(self) -> None:
        """Ends it and all that runs in its namespace."""
        process, self.process = self.process, None
        if process and process.poll() is None:
            inner = self.inner_process(process)
            stop_process(process, signal.SIGKILL)     # unshare ignores SIGTERM
            wait_until(lambda: not inner.exists(), "the end of libvirtd's namespace")

    @staticmethod
    def inner_process(process: subprocess.Popen) -> Path:
        """/proc/PID of the namespace's process 1."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return Path("/proc", wait_until(lambda: children.read_text().split(), "a child")[0])

    def inside(self, command: list[str], **options) -> subprocess.CompletedProcess:
        """Runs a command in the namespace."""
        pid = self.inner_process(self.process).name
        return subprocess.run(["nsenter", "--mount", "--pid", "--target", pid, *command],
                              capture_output=True, text=True, timeout=DEADLINE, **options)

    def try_virsh(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(["virsh", "--quiet", "--connect", self.uri, *args], text=True,
                              capture_output=True, timeout=DEADLINE, input=stdin)

    def virsh(self, *args: str, stdin: str = "") -> str:
        """Runs virsh, which must succeed, and returns what it prints."""
        done = self.try_virsh(*args, stdin=stdin)
        assert done.returncode == 0, f"virsh {args}: {done.stderr}"
        return done.stdout.strip()


class ListeningChannel(Channel):
    """QEMU connects to this one when the domain starts, so that nothing is missed."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        path.chmod(0o777)
        self.listener.listen(1)
        self.listener.settimeout(DEADLINE)
        self.socket: socket.socket | None = None
        self.buffer = b""

    def accept(self) -> None:
        """Waits for the next start's QEMU."""
        self.buffer = b""
        if self.socket:
            self.socket.close()
        self.socket, _ = self.listener.accept()

    def close(self) -> None:
        self.listener.close()
        if self.socket:
            self.socket.close()


DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>256</memory>
  {memory}
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    {kernel}
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'><feature policy='disable' name='la57'/></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <controller type='pci' index='0' model='pcie-root'/>
    {ports}
    <serial type='file'><source path={console}/></serial>
    {shell}
    <memballoon model='none'/>
  </devices>
</domain>
"""
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


class Domain(Guest):
    """The Linux test guest as a domain; without an image, a machine that finds nothing to boot."""

    def __init__(self, libvirtd: Libvirtd, name: str, image: GuestImage | None = None,
                 memory: str = SHARED, ports: int = PORTS) -> None:
        self.libvirtd = libvirtd
        self.name = name
        self.console = libvirtd.folder / f"{name}.console"
        self.console.touch()
        self.console.chmod(0o666)
        self.shell = None
        shell = kernel = ""
        if image:
            path = libvirtd.folder / f"{name}.shell"
            self.shell = ListeningChannel(path)
            shell = f"<serial type='unix'><source mode='connect' path={quoteattr(str(path))}/></serial>"
            kernel = (f"<kernel>{image.vmlinux}</kernel><initrd>{image.initramfs}</initrd>"
                      f"<cmdline>{KERNEL_ARGUMENTS}</cmdline>")
        self.xml = DOMAIN.format(
            name=escape(name), uuid=uuid.uuid4(), memory=memory, kernel=kernel,
            shell=shell, console=quoteattr(str(self.console)),
            ports="<controller type='pci' model='pcie-root-port'/>" * ports)

    def define(self) -> "Domain":
        self.libvirtd.virsh("define", "/dev/stdin", stdin=self.xml)
        return self

    def start(self) -> "Domain":
        self.libvirtd.virsh("start", self.name)
        return self.wait_started()

    def wait_started(self) -> "Domain":
        if self.shell:
            self.shell.accept()
            self.wait_ready()
        return self

    def stop(self) -> None:
        self.libvirtd.try_virsh("destroy", self.name)
        if self.shell:
            self.shell.close()

    def state(self) -> str:
        return self.libvirtd.virsh("domstate", self.name)
