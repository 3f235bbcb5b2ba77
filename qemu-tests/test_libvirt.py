# SPDX-License-Identifier: BSD-3-Clause
"""Disks of libvirt's domains: vhostctl libvirt and vhostctl provision with a real libvirtd."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import unavailable
from daemon import ROOT, VHOSTD, wait_until
from libvirtd import DEADLINE, SHARED, Domain, Libvirtd, missing_programs
from scsi_guest import disk, wait_for_luns

VHOSTCTL = Path(os.environ.get("VHOSTCTL_BIN", VHOSTD.with_name("vhostctl")))
FAILED = 1
IMAGE_SIZE = 64 << 20


@pytest.fixture
def make_libvirtd(folder, logs):
    """Starts a libvirtd whose QEMU runs as that user."""
    if os.geteuid() != 0:
        unavailable("only root can give libvirtd folders of its own")
    if missing_programs():
        unavailable(f"not installed: {' '.join(missing_programs())} (packaging/install-deps.sh test)")
    instances = []

    def make(*account: str) -> Libvirtd:
        folder.chmod(0o711)
        instance = Libvirtd(folder, *account)
        instances.append(instance)
        logs.append(instance.log)
        instance.start()
        return instance

    yield make
    for instance in instances:
        instance.stop()


@pytest.fixture
def libvirtd(make_libvirtd):
    return make_libvirtd()


@pytest.fixture
def make_domain(libvirtd, logs):
    """Defines a domain; its console is shown if the test fails."""
    domains = []

    def make(name: str = "vm1", *args, **options) -> Domain:
        domain = Domain(libvirtd, name, *args, **options)
        domains.append(domain)
        logs.append(domain.console)
        return domain.define()

    yield make
    for domain in domains:
        domain.stop()


@pytest.fixture
def ctl(vhostd, libvirtd):
    """Runs vhostctl, which must end with that status, and returns all that it printed."""
    def run(*args: str, status: int = 0, stderr: bool = True) -> str:
        done = subprocess.run(
            [VHOSTCTL, "-s", vhostd.rpc_socket, *args], capture_output=True, text=True,
            timeout=DEADLINE, env=os.environ | {"LIBVIRT_DEFAULT_URI": libvirtd.uri})
        assert done.returncode == status, f"vhostctl {args}: {done}"
        return done.stdout + (done.stderr if stderr else "")

    return run


@pytest.fixture
def guest(make_domain, linux_image):
    return make_domain("vm1", linux_image).start()


def serve(vhostd, name: str = "data1") -> str:
    """Makes a controller on an image; returns its name."""
    vhostd.serve(vhostd.image(name, IMAGE_SIZE), name)
    return f"vhost.{name}"


def wait_for_disks(guest, names: str) -> None:
    guest.run(f"""
        until [ "$(cd /sys/block && echo vd*)" = "{names}" ]; do
            usleep 50000
        done
    """)


def check_io(guest, disk: str = "vda") -> None:
    guest.run(f"""
        fio --name={disk} --filename=/dev/{disk} --direct=1 --ioengine=libaio --iodepth=16 \
            --rw=randwrite --bs=4k --size=4m --verify=crc32c --verify_fatal=1
    """)


def findings(text: str) -> dict[str, str]:
    """What check --json printed: check → result."""
    return {finding["check"]: finding["result"] for finding in json.loads(text)}


# ---- a disk's life ----

def test_live(vhostd, libvirtd, guest, ctl):
    """Attached while the guest runs, used, detached."""
    name = serve(vhostd)
    assert "vhost.data1 is not attached" in ctl("libvirt", "check", "vm1", name)
    assert ctl("libvirt", "attach", "vm1", name, "--queues", "2").startswith(f"vm1 has {name} as vda\n")
    wait_for_disks(guest, "vda")
    assert guest.run("ls /sys/block/vda/mq").split() == ["0", "1"]
    check_io(guest)
    [row] = json.loads(ctl("libvirt", "list", "--json"))
    assert (row["ctrlr"], row["domain"], row["state"], row["target"]) == (name, "vm1", "running", "vda")
    found = findings(ctl("libvirt", "check", "vm1", "--json"))
    assert found.pop("reconnect") in ("ok", "note") and set(found.values()) == {"ok"}
    assert "vhostuser" not in libvirtd.virsh("dumpxml", "--inactive", "vm1")
    assert "vm1 has it already, as vda" in ctl("libvirt", "attach", "vm1", name, status=FAILED)

    assert ctl("libvirt", "detach", "vm1", name) == f"vm1 has {name} no more\n"
    wait_for_disks(guest, "vd*")
    assert "vhostuser" not in libvirtd.virsh("dumpxml", "vm1")
    assert "has no disk on" in ctl("libvirt", "detach", "vm1", name, status=FAILED)
    vhostd.rpc("vhost_delete_controller", ctrlr=name)
    assert guest.state() == "running"


def test_persistent(vhostd, libvirtd, make_domain, linux_image, ctl):
    """In the definition of a domain that is off; then in both, and out of both."""
    domain = make_domain("vm1", linux_image)
    first, second = serve(vhostd, "first"), serve(vhostd, "second")
    assert "--persistent" in ctl("libvirt", "attach", "vm1", first, status=FAILED)
    text = ctl("libvirt", "attach", "vm1", first, "--persistent", "--target", "vdc")
    assert text == f"vm1 has {first} as vdc from its next start on\n"
    assert "off" in ctl("libvirt", "list")
    domain.start()
    wait_for_disks(domain, "vda")
    check_io(domain)
    assert "as vda" in ctl("libvirt", "attach", "vm1", second, "--persistent")
    wait_for_disks(domain, "vda vdb")
    check_io(domain, "vdb")
    for name in first, second:
        assert str(vhostd.folder / name) in libvirtd.virsh("dumpxml", "--inactive", "vm1")
        ctl("libvirt", "detach", "vm1", name)
        assert str(vhostd.folder / name) not in libvirtd.virsh("dumpxml", "--inactive", "vm1")
    wait_for_disks(domain, "vd*")
    libvirtd.virsh("destroy", "vm1")
    assert "has no disk" in ctl("libvirt", "detach", "vm1", first, status=FAILED)


def test_daemon_restart(vhostd, make_domain, linux_image, ctl):
    """A crash of the daemon in the middle of I/O: the guest's disk goes on, and no request failed."""
    name = serve(vhostd)
    domain = make_domain("vm1", linux_image)
    ctl("libvirt", "attach", "vm1", name, "--persistent")
    guest = domain.start()
    word = guest.begin("""
        fio --name=load --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 \
            --rw=randwrite --bs=4k --size=16m --io_size=24m --verify=crc32c --verify_fatal=1
    """)
    wait_until(lambda: vhostd.rpc("vhost_get_stats", ctrlr=name)[0]["bytes_written"] > 6 << 20, "I/O")
    vhostd.kill()
    vhostd.start()
    output, status = guest.finish(word)
    assert status == 0, output
    assert findings(ctl("libvirt", "check", "vm1", "--json"))["reconnect"] == "ok"


def test_destroy_and_start(vhostd, libvirtd, make_domain, linux_image, ctl):
    """A domain that is destroyed under load has its disk again at the next start."""
    domain = make_domain("vm1", linux_image)
    name = serve(vhostd)
    ctl("libvirt", "attach", "vm1", name, "--persistent")
    for count in range(2):
        domain.start()
        previous = domain.run("dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\\0'")
        assert previous == (f"start {count - 1}" if count else "")
        domain.run(f"""
            printf '%-512s' 'start {count}' | dd of=/dev/vda bs=512 oflag=direct 2>/dev/null
            fio --name=load --filename=/dev/vda --offset=1m --direct=1 --ioengine=libaio \
                --iodepth=16 --rw=randwrite --bs=4k --time_based --runtime=60 >/tmp/log 2>&1 &
            until [ "$(awk '{{print $7}}' /sys/block/vda/stat)" -gt 1000 ]; do :; done
        """)
        libvirtd.virsh("destroy", "vm1")
        wait_until(lambda: not vhostd.rpc("vhost_get_controllers")[0]["sessions"],
                   "the end of the session")


def test_managed_save(vhostd, libvirtd, guest, ctl):
    """Refused, and the guest goes on."""
    ctl("libvirt", "attach", "vm1", serve(vhostd))
    wait_for_disks(guest, "vda")
    done = libvirtd.try_virsh("managedsave", "vm1")
    assert done.returncode != 0 and "Migration disabled" in done.stderr
    assert guest.state() == "running"
    check_io(guest)


def serve_scsi(vhostd, name: str) -> str:
    """Makes a virtio-scsi controller with one disk; returns its name."""
    vhostd.rpc("bdev_aio_create", name=name, filename=str(vhostd.image(name, IMAGE_SIZE)),
               block_size=512)
    vhostd.rpc("vhost_create_scsi_controller", ctrlr=f"scsi.{name}")
    vhostd.rpc("vhost_scsi_controller_add_target", ctrlr=f"scsi.{name}", scsi_target_num=0,
               bdev_name=name)
    return f"scsi.{name}"


def test_scsi(vhostd, libvirtd, make_domain, linux_image, ctl):
    """In the domain as it is printed, and live as docs/libvirt.md says."""
    name, later = serve_scsi(vhostd, "first"), serve_scsi(vhostd, "later")
    printed = ctl("libvirt", "xml", name).split("-->")[1]
    attribute = re.search(r"xmlns:qemu=\S+?(?=>)", printed).group()
    commandline = re.search(r"<qemu:commandline>.*</qemu:commandline>", printed, re.S).group()
    domain = make_domain("vm1", linux_image)
    domain.xml = (domain.xml.replace("<domain ", f"<domain {attribute} ")
                  .replace("</domain>", f"{commandline}</domain>"))
    domain.define().start()
    domain.load("scsi")
    wait_for_luns(domain, ["0:0:0:0"])
    check_io(domain, disk(domain, "0:0:0:0"))
    [row, other] = json.loads(ctl("libvirt", "list", "--json"))
    assert (row["ctrlr"], row["domain"], row["target"]) == (name, "vm1", "virtio-scsi")
    assert (other["ctrlr"], other["domain"]) == (later, None)
    assert f"{name} is virtio-scsi" in ctl("libvirt", "check", "vm1")
    assert "libvirt has no element" in ctl("libvirt", "attach", "vm1", later, status=FAILED)

    document = (ROOT / "docs/libvirt.md").read_text()
    for command in re.findall(r"qemu-monitor-command vm1 --hmp '(.*)'", document):
        command = command.replace("/run/vhostd/CTRLR", str(vhostd.folder / later))
        assert "Error" not in libvirtd.virsh("qemu-monitor-command", "vm1", "--hmp", command)
    wait_for_luns(domain, ["0:0:0:0", "1:0:0:0"])
    check_io(domain, disk(domain, "1:0:0:0"))


# ---- provision ----

def left(vhostd) -> tuple:
    """What there is: block devices, controllers, images."""
    return ([bdev["name"] for bdev in vhostd.rpc("bdev_get_bdevs")],
            [ctrlr["ctrlr"] for ctrlr in vhostd.rpc("vhost_get_controllers")],
            sorted(path.name for path in vhostd.folder.glob("*.img")))


def provision(vhostd, *more: str, name: str = "data1", size: str = "64M") -> list[str]:
    return ["provision", "--size", size, "--domain", "vm1", "--name", name,
            "--dir", str(vhostd.folder), *more]


def test_provision(vhostd, libvirtd, guest, ctl):
    text = ctl(*provision(vhostd))
    assert text.startswith(f"vm1 has data1 ({vhostd.folder}/data1.img, {64 << 20} bytes) as vda\n")
    wait_for_disks(guest, "vda")
    assert guest.run("cat /sys/block/vda/size") == str((64 << 20) // 512)
    check_io(guest)
    assert "data1" in libvirtd.virsh("dumpxml", "--inactive", "vm1")
    made = left(vhostd)
    assert "File exists" in ctl(*provision(vhostd), status=FAILED)
    assert left(vhostd) == made
    disk = json.loads(ctl(*provision(vhostd, name="data2", size="1048576"), "--json", stderr=False))
    assert (disk["target"], disk["size"], disk["domain"]) == ("vdb", 1 << 20, "vm1")


def test_provision_takes_back(vhostd, make_domain, ctl):
    """Each step that can fail, and what was there before stays."""
    domain = make_domain(ports=1)
    domain.start()
    ctl(*provision(vhostd))
    before = left(vhostd)
    # libvirt has no slot for a second disk.
    assert "No more available PCI slots" in ctl(*provision(vhostd, name="data2"), status=FAILED)
    assert left(vhostd) == before
    assert "target" in ctl(*provision(vhostd, "--target", "vda", name="data2"), status=FAILED)
    assert left(vhostd) == before
    vhostd.rpc("bdev_null_create", name="taken", num_blocks=2048, block_size=512)
    vhostd.rpc("bdev_null_create", name="other", num_blocks=2048, block_size=512)
    vhostd.rpc("vhost_create_blk_controller", ctrlr="busy", dev_name="other")
    before = left(vhostd)
    assert "File exists" in ctl(*provision(vhostd, name="taken"), status=FAILED)
    assert "File exists" in ctl(*provision(vhostd, name="busy"), status=FAILED)
    assert left(vhostd) == before
    text = ctl("provision", "--size", "1M", "--domain", "vm1", "--name", "data2", "--dir",
               "/nonexistent", status=FAILED)
    assert "/nonexistent: No such file or directory" in text


def test_provision_without_daemon(vhostd, guest, ctl):
    vhostd.stop()
    assert "does vhostd run?" in ctl(*provision(vhostd), status=FAILED)
    assert not list(vhostd.folder.glob("*.img"))


# ---- what is in the way ----

def test_memory_not_shared(vhostd, libvirtd, make_domain, ctl):
    domain = make_domain(memory="")
    name = serve(vhostd)
    before = left(vhostd)
    for state in "off", "running":
        text = ctl("libvirt", "check", "vm1", name, status=FAILED)
        assert "shared memory" in text and SHARED in text and state in text
        for args in (["libvirt", "attach", "vm1", name, "--persistent"],
                     provision(vhostd, name="data2")):
            assert "its memory is not shared" in ctl(*args, status=FAILED)
        if state == "off":
            domain.start()
    assert left(vhostd) == before
    # In the definition it counts from the next start on.
    domain.xml = domain.xml.replace("<vcpu>", f"{SHARED}<vcpu>")
    domain.define()
    assert "not yet in the running guest" in ctl("libvirt", "check", "vm1", status=FAILED)
    assert "its memory is not shared" in ctl("libvirt", "attach", "vm1", name, status=FAILED)
    libvirtd.virsh("destroy", "vm1")
    domain.start()
    ctl("libvirt", "check", "vm1", name)
    ctl("libvirt", "attach", "vm1", name)


def test_two_domains(vhostd, make_domain, ctl):
    """A controller is one domain's, whether that one runs or not."""
    make_domain("vm1")
    other = make_domain("vm<2>&")
    name = serve(vhostd)
    ctl("libvirt", "attach", "vm1", name, "--persistent")
    assert "domain vm1 has it already" in ctl("libvirt", "attach", "vm<2>&", name, "--persistent",
                                             status=FAILED)
    other.start()
    assert "domain vm1 has it already" in ctl("libvirt", "attach", "vm<2>&", name, status=FAILED)
    assert findings(ctl("libvirt", "check", "vm<2>&", name, "--json"))["use"] == "note"


def test_no_free_port(vhostd, make_domain, ctl):
    make_domain(ports=0).start()
    text = ctl("libvirt", "check", "vm1", serve(vhostd))
    assert "pcie-root-port" in text


def test_unknown_names(vhostd, make_domain, ctl):
    make_domain()
    name = serve(vhostd)
    for verb in (["attach", "vm2", name], ["detach", "vm2", name], ["check", "vm2"]):
        assert "domain vm2: libvirt (qemu" in ctl("libvirt", *verb, status=FAILED)
    for verb in (["attach", "vm1", "nobody"], ["detach", "vm1", "nobody"], ["xml", "nobody"],
                 ["check", "vm1", "nobody"]):
        assert "no controller is called 'nobody'" in ctl("libvirt", *verb, status=FAILED)


def test_no_libvirtd(vhostd, libvirtd, ctl):
    name = serve(vhostd)
    libvirtd.stop()
    for args in (["libvirt", "attach", "vm1", name], ["libvirt", "list"], ["libvirt", "check", "vm1"],
                 provision(vhostd, name="data2")):
        assert "does libvirtd run?" in ctl(*args, status=FAILED)
    assert sorted(path.name for path in vhostd.folder.glob("*.img")) == ["data1.img"]


def test_disk_without_controller(vhostd, libvirtd, make_domain, ctl):
    make_domain()
    name = serve(vhostd)
    ctl("libvirt", "attach", "vm1", name, "--persistent")
    vhostd.rpc("vhost_delete_controller", ctrlr=name)
    assert "no controller has the socket" in ctl("libvirt", "check", "vm1", status=FAILED)
    assert name not in ctl("libvirt", "list")
    # provision takes back what it made, and nothing else.
    before = left(vhostd)
    vhostd.rpc("bdev_uring_delete", name="data1")
    assert "has it already" in ctl(*provision(vhostd, name=name), status=FAILED)
    assert left(vhostd) == ([], [], before[2])
    assert name in libvirtd.virsh("dumpxml", "vm1")
    socket = vhostd.folder / name
    vhostd.stop()
    assert ctl("libvirt", "detach", "vm1", str(socket)) == f"vm1 has {socket} no more\n"
    assert name not in libvirtd.virsh("dumpxml", "vm1")


def test_path_that_libvirt_does_not_escape(vhostd, libvirtd, make_domain, ctl):
    """Nothing is attached to a domain that libvirt itself cannot describe any more."""
    domain = make_domain()
    domain.xml = domain.xml.replace("</devices>", """
        <disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>
          <source type='unix' path='/run/a&amp;b'/><target dev='vda' bus='virtio'/></disk></devices>""")
    domain.define()
    name = serve(vhostd)
    if "/run/a&amp;b" not in libvirtd.virsh("dumpxml", "vm1"):
        for verb in (["check", "vm1"], ["attach", "vm1", name, "--persistent"]):
            assert "is not XML" in ctl("libvirt", *verb, status=FAILED)
    vhostd.rpc("vhost_create_blk_controller", ctrlr="a&b", dev_name="data1")
    libvirtd.virsh("undefine", "vm1")
    make_domain("vm2")
    assert "another name" in ctl("libvirt", "attach", "vm2", "a&b", "--persistent", status=FAILED)


def test_permission(vhostd, make_libvirtd, logs):
    """QEMU's user is not the daemon's, as Debian has it; a group lets it in."""
    libvirtd = make_libvirtd("libvirt-qemu", "libvirt-qemu")
    domain = Domain(libvirtd, "vm1").define()
    name = serve(vhostd)

    def ctl(*args: str):
        return libvirtd.inside([str(VHOSTCTL), "-s", str(vhostd.rpc_socket), "libvirt", *args,
                                "--connect", libvirtd.uri])

    done = ctl("check", "vm1", name)
    assert done.returncode == FAILED
    assert "QEMU runs as libvirt-qemu, which may not connect: Permission denied" in done.stdout
    domain.start()
    done = ctl("attach", "vm1", name)
    assert done.returncode == FAILED and "Permission denied" in done.stderr
    assert done.stderr.startswith("vhostctl: domain vm1: ")

    vhostd.stop()
    vhostd.options = ["--group", "kvm"]
    vhostd.start()
    assert ctl("check", "vm1", name).returncode == 0
    assert ctl("attach", "vm1", name).stdout == f"vm1 has {name} as vda\n"
    domain.stop()
