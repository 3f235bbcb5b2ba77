# SPDX-License-Identifier: BSD-3-Clause
"""The Debian package: built, checked, and lived with on a machine of its own (package_machine.sh).

What is written there is kept apart, so that the test can say what a purge leaves behind. systemd is real: it
starts the daemon from its unit, with all that the unit takes away from it.
"""
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from harness import DEADLINE, ROOT, VHOSTD, wait_until

BUILD = Path(os.environ.get("VHOSTD_BUILD", ROOT / "build"))
LOAD = VHOSTD.with_name("vhost_load")
MACHINE = Path(__file__).with_name("package_machine.sh")
QEMU = "qemu-system-x86_64"
TOOLS = ("dh", "dh_apparmor", "dpkg-buildpackage", "lintian", "apparmor_parser", "systemd-analyze", "unshare", "nsenter",
         QEMU)
BUILD_DEADLINE = 500        # seconds

DISK = 8 << 20              # bytes
CAP_DAC_OVERRIDE = 1
# At 7c00h: reads the disk's 9th sector by int 13h, says '.' or 'E' (an error) on port E9h, waits for the timer, again.
BOOT_SECTOR = (bytes.fromhex("31c0 8ed8  be207c b442 cd13  b02e 7302 b045 e6e9  f4 ebee").ljust(32, b"\0") +
               struct.pack("<BBHHHQ", 16, 0, 1, 0x8000, 0, 8)).ljust(510, b"\0") + b"\x55\xaa"
# What dpkg and the tools that it calls write by themselves.
BOOKKEEPING = re.compile(r"var/(lib/dpkg/|log/|cache/(ldconfig|man|debconf)/|lib/systemd/deb-systemd|lib/man-db/)"
                         r"|etc/apparmor\.d/disable$"       # an empty folder of its own that dh_apparmor removes
                         r"|etc/(passwd|group|g?shadow)-?$|etc/\.pwd\.lock$|etc/ld\.so\.cache$|etc/machine-id$")


def unavailable(reason):
    """Skips; but in CI, which must run everything, a missing thing is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def package():
    """The package of this tree."""
    if BUILD.name.endswith(("-asan", "-tsan")):
        pytest.skip("a package has no sanitizer")
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
    if missing:
        unavailable(f"not installed: {' '.join(missing)} (packaging/install-deps.sh deb test)")
    done = subprocess.run([ROOT / "packaging/build-deb.sh", BUILD / "deb"], capture_output=True, text=True,
                          timeout=BUILD_DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


def cgroup_folder():
    """Where the unified hierarchy of cgroups is."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(path)
    return unavailable("no cgroup2 is mounted")


class Machine:
    """A second machine in namespaces; its systemd runs, and nothing else."""

    def __init__(self, folder):
        self.folder = folder
        self.root = None
        self.cgroup = cgroup_folder() / f"vhostd-test-{os.getpid()}"
        self.process = None
        self.init = None

    def start(self):
        self.cgroup.mkdir()
        # cgroup.procs: the new cgroup namespace begins where the process is that makes it.
        command = ('echo $$ > "$0"/cgroup.procs; exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc '
                   '--net "$1" "$2"')
        self.process = subprocess.Popen(["sh", "-c", command, str(self.cgroup), str(MACHINE), str(self.folder)],
                                        stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: self.process.poll() is not None or children.read_text().strip(), "the machine has an init")
        assert self.process.poll() is None, "the machine cannot be made"
        self.init = children.read_text().strip()
        self.root = Path("/proc", self.init, "root")
        # On a machine of its own nsenter is what systemd answers.
        wait_until(lambda: (Path(f"/proc/{self.init}/comm").read_text() == "systemd\n"
                            and self.run("systemctl", "is-system-running", status=None).stdout.strip()
                            in ("running", "degraded", "starting")), "systemd is up")

    def stop(self):
        if self.process:
            self.process.kill()     # and with it all of its namespace
            self.process.wait()
        for folder in sorted(self.cgroup.glob("**/"), reverse=True):
            wait_until(lambda: remove_cgroup(folder), f"{folder} is empty")

    def run(self, *command, status=0, deadline=2 * DEADLINE):
        done = subprocess.run(["nsenter", f"--target={self.init}", "--all", "--root", "--wd", "env", "-i",
                               "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
                               *map(str, command)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline)
        if status is not None:
            assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}{self.log()}"
        return done

    def log(self):
        log = self.root / "tmp/vhostd.log"
        return log.read_text() if log.exists() else "no log of vhostd\n"

    def rpc(self, *command):
        return json.loads(self.run("vhostctl", "--json", *command).stdout)

    def unit(self, name):
        return self.run("systemctl", "show", "--value", "--property", name, "vhostd").stdout.strip()

    def wait_for(self, state):
        wait_until(lambda: self.unit("ActiveState") == state, f"vhostd is {state}")

    def written(self):
        """The files that are new, changed or gone, and the folders that are new."""
        top = self.folder / "written"
        return {str(path.relative_to(top)) for path in top.rglob("*")
                if not path.is_dir() or not Path("/", path.relative_to(top)).is_dir()}


def remove_cgroup(folder):
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True


@pytest.fixture
def machine():
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a machine of its own")
    folder = Path(tempfile.mkdtemp(prefix="vhostd-package."))
    folder.chmod(0o755)
    machine = Machine(folder)
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()
        shutil.rmtree(folder)


def test_lintian(package):
    done = subprocess.run(["lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning",
                           *package.parent.glob("vhostd_*.changes")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_documents(package, tmp_path):
    """What a document names is there, under that name."""
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True, timeout=DEADLINE)
    folder = tmp_path / "usr/share/doc/vhostd"
    documents = sorted(folder.rglob("*.md"))
    assert {"README.md", "libvirt.md", "monitoring.md"} <= {document.name for document in documents}
    for document in documents:
        for name in re.findall(r"\]\(([^)#:]+)[)#]", document.read_text()):
            name = name.replace("LICENSE", "copyright")     # as Debian calls it
            assert (document.parent / name).exists(), f"{document.name}: {name}"


def test_apparmor_profile():
    """It is one that the parser takes."""
    subprocess.run(["apparmor_parser", "--skip-kernel-load", "--skip-cache",
                    ROOT / "packaging/apparmor/usr.sbin.vhostd"], check=True, timeout=DEADLINE,
                   env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})


def load(machine, *arguments, group="kvm", status=0):
    """A front-end that is neither root nor the daemon, as QEMU under libvirt."""
    return machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", f"--groups={group}", "--no-new-privs",
                       "/tmp/vhost_load", "--socket", "/run/vhostd/vm1", "--seconds", "1", *arguments, status=status)


def serve_a_disk(machine):
    """As the manual says, with an image that is root's alone."""
    machine.run("truncate", "-s", DISK, "/srv/disk0.img")
    machine.run("chmod", "600", "/srv/disk0.img")
    machine.run("vhostctl", "bdev_uring_create", "--name", "disk0", "--filename", "/srv/disk0.img")
    machine.run("vhostctl", "vhost_create_blk_controller", "--ctrlr", "vm1", "--dev_name", "disk0")
    shutil.copy(LOAD, machine.root / "tmp/vhost_load")
    assert "0 wrong" in load(machine, "--verify").stdout
    assert (machine.root / "srv/disk0.img").read_bytes().strip(b"\0"), "nothing came to the image"
    assert "Permission denied" in load(machine, group="nogroup", status=1).stderr


def start_guest(machine):
    """One that reads its disk again and again; QEMU is neither root nor the daemon."""
    (machine.root / "srv/boot.img").write_bytes(BOOT_SECTOR.ljust(DISK, b"\0"))
    machine.run("vhostctl", "bdev_uring_create", "--name", "boot", "--filename", "/srv/boot.img")
    machine.run("vhostctl", "vhost_create_blk_controller", "--ctrlr", "vm2", "--dev_name", "boot")
    qemu = (f"{QEMU} -nodefaults -no-user-config -display none -accel tcg -m 64M -machine q35,memory-backend=mem "
            "-object memory-backend-memfd,id=mem,size=64M,share=on -chardev socket,id=disk,path=/run/vhostd/vm2,reconnect=1 "
            "-device vhost-user-blk-pci,chardev=disk -debugcon file:/tmp/guest -daemonize -pidfile /tmp/guest.pid")
    machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=kvm", *qemu.split())


def check_guest(machine):
    """It goes on, and no request has failed."""
    output = machine.root / "tmp/guest"
    before = output.stat().st_size
    wait_until(lambda: output.stat().st_size > before + 20, "the guest reads its disk")
    assert output.read_bytes().strip(b".") == b""


def stop_guest(machine):
    machine.run("kill", "-KILL", (machine.root / "tmp/guest.pid").read_text().strip())
    for command in (["vhost_delete_controller", "--ctrlr", "vm2"], ["bdev_uring_delete", "--name", "boot"]):
        machine.run("vhostctl", *command)


def check_privileges(machine):
    """The daemon is not root, and may open files that are not its own; all else is taken away."""
    status = dict(line.split(":\t", 1) for line in
                  machine.run("cat", f"/proc/{machine.unit('MainPID')}/status").stdout.splitlines() if ":\t" in line)
    user = machine.run("id", "-u", "vhostd").stdout.strip()
    group = machine.run("getent", "group", "kvm").stdout.split(":")[2]
    assert user != "0"
    assert status["Uid"].split() == [user] * 4 and status["Gid"].split() == [group] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 1 << CAP_DAC_OVERRIDE, name
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    # A list of devices would leave out the disks that are to be served.
    assert machine.unit("DevicePolicy") == "auto" and machine.unit("DeviceAllow") == ""
    files = machine.run("stat", "-c", "%U:%G %a", "/run/vhostd", "/run/vhostd/rpc.sock", "/run/vhostd/vm1",
                        "/var/lib/vhostd", "/var/lib/vhostd/state.json").stdout.splitlines()
    assert files == ["vhostd:kvm 755", "vhostd:kvm 600", "vhostd:kvm 770", "vhostd:kvm 700", "vhostd:kvm 600"]
    # Hearing of devices that come and go is not.
    machine.run("vhostctl", "bdev_nvme_set_hotplug", "--enable")
    machine.run("vhostctl", "bdev_nvme_set_hotplug", "--enable", "false")
    # That a busy machine gave its CPU to others is not its fault.
    warnings = [line for line in machine.log().splitlines()
                if ("ERROR" in line or "WARNING" in line) and "too late: its CPU" not in line]
    assert warnings == []


def crash(machine):
    """systemd starts it again, and the disk is back."""
    pid = machine.unit("MainPID")
    machine.run("kill", "-KILL", pid)
    wait_until(lambda: machine.unit("MainPID") not in ("0", pid), "vhostd is started again")
    machine.wait_for("active")
    assert machine.unit("NRestarts") == "1"
    assert "errors 0" in load(machine).stdout


def upgrade(machine, path):
    """What was made is there afterwards, and what the administrator wrote."""
    defaults = machine.root / "etc/default/vhostd"
    options = 'VHOSTD_OPTIONS="--mode interrupt --metrics 127.0.0.1:9815"'
    defaults.write_text(defaults.read_text().replace('VHOSTD_OPTIONS=""', options))
    pid, made = machine.unit("MainPID"), machine.rpc("framework_get_config", "--name", "bdev")
    machine.run("dpkg", "--install", path)
    machine.wait_for("active")
    assert machine.unit("MainPID") != pid
    assert machine.rpc("framework_get_config", "--name", "bdev") == made
    assert "errors 0" in load(machine).stdout
    assert "mode interrupt" in machine.log().splitlines()[-1]
    assert "vhostd_" in machine.run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9815/metrics").stdout


def remove(machine):
    """The programs go; what people have made stays."""
    machine.run("dpkg", "--remove", "vhostd")
    assert machine.run("pgrep", "vhostd", status=1).stdout == ""
    for path in ("usr/sbin/vhostd", "usr/bin/vhostctl", "lib/systemd/system/vhostd.service", "run/vhostd"):
        assert not (machine.root / path).exists(), path
    for path in ("etc/default/vhostd", "var/lib/vhostd/state.json", "srv/disk0.img"):
        assert (machine.root / path).exists(), path


def purge(machine):
    """Images that are kept beside the state stay, and copies of it."""
    folder = machine.root / "var/lib/vhostd"
    kept = {"data.img", "state.json.old"}
    for name in kept | {"state.json.damaged-1", "state.json.tmp"}:
        (folder / name).write_bytes(b"data")
    machine.run("dpkg", "--purge", "vhostd")
    assert set(os.listdir(folder)) == kept
    for name in kept:
        (folder / name).unlink()
    folder.rmdir()


def accounts(machine):
    return {name: set((machine.root / "etc" / name).read_text().splitlines()) for name in ("passwd", "group")}


def test_life_of_a_package(package, machine):
    """Installed, used, upgraded, removed, installed again, removed, purged."""
    shutil.copy(package, machine.root / "tmp")
    path = Path("/tmp", package.name)
    written, known = machine.written(), accounts(machine)

    machine.run("dpkg", "--install", path)
    machine.wait_for("active")
    assert machine.run("systemctl", "is-enabled", "vhostd").stdout == "enabled\n"
    problems = machine.run("systemd-analyze", "verify", "vhostd.service")
    assert "vhostd" not in problems.stderr, problems.stderr
    serve_a_disk(machine)
    start_guest(machine)
    check_guest(machine)
    check_privileges(machine)
    crash(machine)
    check_guest(machine)
    upgrade(machine, path)
    check_guest(machine)
    stop_guest(machine)
    remove(machine)
    machine.run("dpkg", "--install", path)
    machine.wait_for("active")
    assert "errors 0" in load(machine).stdout
    remove(machine)
    purge(machine)

    left = {path for path in machine.written() - written if not BOOKKEEPING.match(path)}
    assert left == set()
    new = {name: sorted(line.split(":")[0] for line in lines - known[name])
           for name, lines in accounts(machine).items()}
    assert new["passwd"] == ["vhostd"] and set(new["group"]) <= {"kvm"}
