# SPDX-License-Identifier: BSD-3-Clause
"""vhostctl libvirt and provision, with libvirt's own test driver in place of guests (qemu-tests has
those), and with daemons that answer what no daemon of ours would."""

import json
import os
import signal
import socket
import subprocess
from xml.etree import ElementTree

import pytest
from fake_daemon import FakeDaemon
from harness import DEADLINE, ROOT, VHOSTCTL, vhostctl

FAILED, USAGE = 1, 2
TROUBLE = VHOSTCTL.parent.parent / "preload" / "libvirt_trouble.so"
NAME = "a<b>&\"c',d"      # a controller's name that XML, QEMU's options and shells take as theirs
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
PROVISION = ["provision", "--size", "1M", "--domain", "d", "--name", "n"]
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def domain(name: str, disks: str = "", more: str = SHARED, running: bool = True) -> str:
    state = "" if running else "<test:runstate>5</test:runstate>"
    return f"""
        <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
          <name>{name}</name><memory unit='MiB'>64</memory>{more}<vcpu>2</vcpu>
          <os><type>hvm</type></os><devices>{disks}</devices>{state}
        </domain>"""


def disk(path, target: str = "vda", queues: str = "", reconnect: bool = True) -> str:
    inner = "<reconnect enabled='yes' timeout='1'/>" if reconnect else ""
    return f"""<disk type='vhostuser' device='disk'><driver name='qemu' type='raw' {queues}/>
        <source type='unix' path='{path}'>{inner}</source><target dev='{target}' bus='virtio'/></disk>"""


@pytest.fixture
def libvirt(folder):
    """Makes the URI of a node with these domains."""
    def make(*domains: str) -> str:
        path = folder / "node.xml"
        path.write_text(f"<node>{''.join(domains)}</node>")
        return f"test://{path}"

    return make


@pytest.fixture
def fake(folder):
    """A daemon that answers each method with a value, or with an error; returns its socket."""
    answers: dict = {}

    def reply(text: bytes) -> bytes:
        method = json.loads(text)["method"]
        answer = answers.get(method, {"error": {"code": -32601, "message": "Method not found"}})
        return json.dumps({"jsonrpc": "2.0", "id": 1} | answer).encode()

    daemon = FakeDaemon(folder / "fake.sock", reply)

    def start(**results) -> str:
        answers.update({method: {"result": result} for method, result in results.items()})
        return str(daemon.path)

    yield start
    daemon.stop()


@pytest.fixture
def silent(folder):
    """A libvirtd that takes connections and says nothing: its socket, and its URI."""
    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(DEADLINE)
        listener.bind(str(path))
        listener.listen(8)
        yield listener, f"qemu+unix:///system?socket={path}"


def trouble(*calls: str) -> dict:
    """The environment of a vhostctl whose libvirt is as tests/preload/libvirt_trouble.c says."""
    return os.environ | {"LD_PRELOAD": str(TROUBLE), "LIBVIRT_TROUBLE": ",".join(calls),
                         "ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0"}


def serve(vhostd, name: str = "data1") -> str:
    vhostd.rpc("bdev_null_create", name=name, num_blocks=2048, block_size=512)
    vhostd.rpc("vhost_create_blk_controller", ctrlr=name, dev_name=name)
    return str(vhostd.folder / name)


def findings(text: str) -> list[tuple[str, str]]:
    return [(found["check"], found["result"]) for found in json.loads(text)]


# ---- xml ----

def test_xml(shared):
    path = serve(shared, NAME)
    text = shared.ctl("libvirt", "xml", NAME, "--target", "vdc", "--queues=4").stdout
    root = ElementTree.fromstring(text)
    assert (root.tag, root.attrib) == ("disk", {"type": "vhostuser", "device": "disk"})
    assert root.find("source").attrib == {"type": "unix", "path": path}
    assert root.find("source/reconnect").attrib == {"enabled": "yes", "timeout": "1"}
    assert root.find("target").attrib == {"dev": "vdc", "bus": "virtio"}
    assert root.find("driver").attrib == {"name": "qemu", "type": "raw", "queues": "4"}
    assert SHARED in text
    parts = json.loads(shared.ctl("libvirt", "xml", NAME, "--json").stdout)
    assert ElementTree.fromstring(parts["disk"]).find("source").get("path") == path
    assert parts["memoryBacking"] == SHARED
    shared.ctl("libvirt", "xml", "nobody", status=FAILED)


def test_xml_of_scsi(fake):
    """QEMU's own command line: names as QEMU takes them, commas in paths twice."""
    path = f"/run/x y/{NAME}"
    daemon = fake(vhost_get_controllers=[
        {"ctrlr": NAME, "socket": path, "sessions": [], "backend_specific": {"scsi": []}}])
    text = vhostctl("-s", daemon, "libvirt", "xml", NAME, "--queues", "3").stdout
    root = ElementTree.fromstring(text)
    assert root.tag == "domain" and root.find("memoryBacking/access").get("mode") == "shared"
    values = [argument.get("value") for argument in root.iter(f"{QEMU}arg")]
    assert values[0::2] == ["-chardev", "-device"]
    identity = "a_3cb_3e_26_22c_27_2cd"
    assert values[1] == f"socket,id=vhostd-{identity},path={path.replace(',', ',,')}"
    assert values[3] == (f"vhost-user-scsi-pci,id=vhostd-scsi-{identity},chardev=vhostd-{identity},"
                         "bus=pcie.0,addr=0x10,num_queues=3")
    assert "scsi_host" in text
    done = vhostctl("-s", daemon, "libvirt", "attach", "test", NAME, "--connect", "test:///default",
                    status=FAILED)
    assert "libvirt xml" in done.stderr


# ---- list ----

def test_list(shared, libvirt):
    path, other = serve(shared), serve(shared, '">x,y')
    uri = libvirt(domain("one", disk(path)), domain("t&lt;o", disk(other, "vdb"), running=False),
                  domain("three", disk("/nonexistent")))
    serve(shared, "unused")
    rows = json.loads(shared.ctl("libvirt", "list", "--json", "--connect", uri).stdout)
    assert {row["ctrlr"]: (row["domain"], row["state"], row["target"]) for row in rows} == {
        "data1": ("one", "running", "vda"), '">x,y': ("t<o", "off", "vdb"), "unused": (None, None, None)}
    table = shared.ctl("libvirt", "list", "--connect", uri).stdout
    assert "t<o" in table and "nonexistent" not in table
    # However the domain spells the path.
    uri = libvirt(domain("one", disk(f"{shared.folder}/./data1")))
    assert "one" in shared.ctl("libvirt", "list", "--connect", uri).stdout


# ---- check ----

def test_check(shared, libvirt):
    path = serve(shared)
    uri = libvirt(domain("one", disk(path, queues="queues='2'")))
    text = shared.ctl("libvirt", "check", "one", "--connect", uri, "--json").stdout
    found = findings(text)
    for check in "vhostd", "domain", "shared memory", "controller", "queues":
        assert (check, "ok") in found
    # The test driver runs nothing, as nobody.
    assert ("permission", "note") in found


@pytest.mark.parametrize("disks, more, missing", [
    ("", "", "shared memory"),
    ("", "<memoryBacking><access mode='private'/></memoryBacking>", "shared memory"),
    ("", "<memoryBacking><hugepages/></memoryBacking>", "shared memory"),
    (disk("/nonexistent/x"), SHARED, "controller"),
    (disk("relative"), SHARED, "controller"),
    (disk("{path}", reconnect=False), SHARED, "reconnect"),
    (disk("{path}", queues="queues='65'"), SHARED, "queues")])
def test_check_finds(shared, libvirt, disks, more, missing):
    path = serve(shared)
    uri = libvirt(domain("one", disks.replace("{path}", path), more))
    done = shared.ctl("libvirt", "check", "one", "--connect", uri, "--json", status=FAILED)
    assert (missing, "MISSING") in findings(done.stdout)
    assert done.stderr.startswith("vhostctl: domain one: 1 of these has to be mended")


def test_check_of_cells(shared, libvirt):
    """NUMA cells may each say how their memory is mapped."""
    def cpu(*access: str) -> str:
        cells = "".join(f"<cell id='{i}' cpus='{i}' memory='32' unit='MiB' {text}/>"
                        for i, text in enumerate(access))
        return f"<cpu><numa>{cells}</numa></cpu>"

    shared_cell, private_cell = "memAccess='shared'", "memAccess='private'"
    for more, result in ((cpu(shared_cell, shared_cell), "ok"), (cpu(shared_cell, ""), "MISSING"),
                         (SHARED + cpu("", shared_cell), "ok"),
                         (SHARED + cpu(private_cell, shared_cell), "MISSING")):
        uri = libvirt(domain("one", more=more))
        done = shared.ctl("libvirt", "check", "one", "--connect", uri, "--json",
                          status=0 if result == "ok" else FAILED)
        assert ("shared memory", result) in findings(done.stdout)


def test_check_without_daemon(folder, libvirt):
    uri = libvirt(domain("one", disk("/run/x")))
    done = vhostctl("-s", str(folder / "none"), "libvirt", "check", "one", "--connect", uri, status=FAILED)
    assert "does vhostd run?" in done.stdout


# ---- attach, detach, provision: what is refused before a guest is touched ----

def test_attach_refused(shared, libvirt):
    path = serve(shared)
    uri = libvirt(domain("one", disk(path)), domain("two"), domain("off", running=False),
                  domain("private", more=""))

    def refused(*args: str) -> str:
        done = shared.ctl("libvirt", *args, "--connect", uri, status=FAILED)
        assert done.stdout == ""
        return done.stderr

    assert "domain one has it already, as vda" in refused("attach", "two", "data1")
    assert "domain one has it already, as vda" in refused("attach", "one", "data1")
    assert "--persistent" in refused("attach", "off", "data1")
    assert "its memory is not shared" in refused("attach", "private", "data1")
    assert "no domain of that name" in refused("attach", "no<body>", "data1")
    assert "has no disk on" in refused("detach", "two", "data1")
    assert "no controller is called" in refused("attach", "two", "no<body>")


def test_front_end_of_somebody_else(fake, libvirt):
    daemon = fake(vhost_get_controllers=[{"ctrlr": "c", "socket": "/run/c", "sessions": [{"vid": 0}],
                                          "backend_specific": {"block": {"bdev": "b"}}}])
    done = vhostctl("-s", daemon, "libvirt", "attach", "one", "c", "--connect",
                    libvirt(domain("one")), status=FAILED)
    assert "a front-end that libvirt does not know is connected" in done.stderr


def test_paths_that_libvirt_does_not_escape(shared, libvirt):
    """Attached, they would make the domain's own description unreadable."""
    for name in "a<b", "a&b", "a'b":
        serve(shared, name)
        done = shared.ctl("libvirt", "attach", "one", name, "--connect", libvirt(domain("one")),
                          status=FAILED)
        assert "make the controller with another name" in done.stderr
        assert "another name" in shared.ctl("libvirt", "xml", name).stderr


@pytest.mark.parametrize("running", [True, False])
def test_attach_and_detach(shared, libvirt, running):
    path = serve(shared)
    uri = libvirt(domain("one", running=running), domain("two", disk(path), running=False))
    env = trouble("attach", "detach")

    def ctl(*args: str) -> str:
        return vhostctl("-s", str(shared.socket), *args, "--connect", uri, env=env).stdout

    attach = ["libvirt", "attach", "one", "other", "--persistent"]
    other = serve(shared, "other")
    assert ctl(*attach) == f"one has other as vda{'' if running else ' from its next start on'}\n"
    assert json.loads(ctl(*attach, "--json")) == {
        "domain": "one", "ctrlr": "other", "target": "vda", "socket": other, "state": "running" if running else "off"}
    assert ctl("libvirt", "detach", "two", "data1") == "two has data1 no more\n"
    assert json.loads(ctl("--json", "libvirt", "detach", "two", "data1")) == {
        "domain": "two", "ctrlr": "data1", "socket": path}
    assert json.loads(ctl("libvirt", "detach", "two", path, "--json")) == {
        "domain": "two", "ctrlr": None, "socket": path}


@pytest.mark.parametrize("uri", ["nonsense://",
                                 "qemu+unix:///system?socket=/nonexistent/libvirt-sock"])
def test_no_libvirt(shared, folder, uri):
    serve(shared)
    for args in (["libvirt", "list"], ["libvirt", "check", "one"], ["libvirt", "attach", "one", "data1"],
                 ["libvirt", "detach", "one", "data1"],
                 ["provision", "--size", "1M", "--domain", "one", "--name", "new", "--dir", str(folder)]):
        done = shared.ctl(*args, "--connect", uri, status=FAILED)
        assert done.stderr.startswith("vhostctl: libvirt: ") and "does libvirtd run?" in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_uri_from_the_environment(shared, libvirt):
    env = os.environ | {"LIBVIRT_DEFAULT_URI": libvirt(domain("one"))}
    assert "ok" in vhostctl("-s", str(shared.socket), "libvirt", "check", "one", env=env).stdout


def test_detach_by_socket(libvirt):
    """Neither the controller nor the daemon need be there."""
    done = vhostctl("-s", "/nonexistent/rpc.sock", "libvirt", "detach", "one", "/run/c", "--connect",
                    libvirt(domain("one")), status=FAILED)
    assert done.stderr == "vhostctl: domain one: has no disk on /run/c\n"


def test_provision_takes_all_back(shared, libvirt, folder):
    """The test driver attaches nothing: the last step fails."""
    images = folder / "images"
    images.mkdir()
    name = '">x,y'
    args = ["provision", "--size", "1M", "--domain", "one", "--name", name, "--dir", str(images),
            "--connect", libvirt(domain("one"))]
    done = shared.ctl(*args, status=FAILED)
    assert done.stderr.startswith("vhostctl: domain one: ") and "left behind" not in done.stderr
    assert list(images.iterdir()) == []
    assert shared.rpc("bdev_get_bdevs") == [] and shared.rpc("vhost_get_controllers") == []
    # An image that was there before stays.
    (images / f"{name}.img").write_text("mine")
    assert "File exists" in shared.ctl(*args, status=FAILED).stderr
    assert (images / f"{name}.img").read_text() == "mine"


def test_provision_leaves_what_the_domain_has(shared, libvirt, folder):
    """A disk on a socket of that name, whose controller was away, is not provision's to take back."""
    uri = libvirt(domain("one", disk(shared.folder / "data1")))
    done = shared.ctl("provision", "--size", "1M", "--domain", "one", "--name", "data1", "--dir", str(folder),
                      "--connect", uri, status=FAILED)
    assert done.stderr == "vhostctl: vhost data1: domain one has it already, as vda\n"
    assert shared.rpc("bdev_get_bdevs") == [] and shared.rpc("vhost_get_controllers") == []
    assert not list(folder.glob("*.img"))


def test_provision_says_what_is_left(fake, libvirt, folder):
    """A daemon that makes the block device and then answers no more."""
    daemon = fake(spdk_get_version={"version": "x"}, bdev_uring_create="data1")
    done = vhostctl("-s", daemon, "provision", "--size", "1M", "--domain", "one", "--name", "data1",
                    "--dir", str(folder), "--connect", libvirt(domain("one")), status=FAILED)
    assert "vhost_create_blk_controller" in done.stderr and "may be left behind" in done.stderr
    assert (folder / "data1.img").exists()


def test_provision_interrupted(shared, libvirt, folder):
    """A signal that came before is looked at after each step."""
    def interrupt() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)

    done = subprocess.run(
        [VHOSTCTL, "-s", shared.socket, "provision", "--size", "1M", "--domain", "one", "--name", "new",
         "--dir", folder, "--connect", libvirt(domain("one"))],
        capture_output=True, text=True, timeout=DEADLINE, preexec_fn=interrupt)
    assert done.returncode == FAILED and done.stderr == "vhostctl: provision: interrupted\n"
    assert shared.rpc("bdev_get_bdevs") == [] and not list(folder.glob("*.img"))


# ---- domains that cannot be seen ----

def check_unseen(shared, uri: str, env: dict, text: str) -> None:
    """list and attach fail, check says it."""
    serve(shared)

    def ctl(*args: str, status: int):
        return vhostctl("-s", str(shared.socket), "libvirt", *args, "--connect", uri, env=env, status=status)

    done = ctl("list", status=FAILED)
    assert text in done.stderr and "data1" in done.stdout
    assert text in ctl("attach", "one", "data1", status=FAILED).stderr
    found = json.loads(ctl("check", "one", "data1", "--json", status=0).stdout)
    assert [text in note["detail"] for note in found if (note["check"], note["result"]) == ("use", "note")] == [True]


def test_list_of_domains_fails(shared, libvirt):
    check_unseen(shared, libvirt(domain("one")), trouble("attach", "list-fails"), "libvirt: ")


def test_domain_that_is_not_xml(shared, libvirt):
    """As libvirt 9.0's is with a '<' in a socket's path."""
    check_unseen(shared, libvirt(domain("one"), domain("two")), trouble("attach", "not-xml"),
                 "domain two: what libvirt says of it is not XML")


# ---- a libvirt that does not answer ----

@pytest.mark.parametrize("args", [
    ["libvirt", "list"], ["libvirt", "check", "one"], ["libvirt", "attach", "one", "data1"],
    ["libvirt", "detach", "one", "/run/c"], [*PROVISION, "--dir", "{folder}"]])
def test_silent_libvirt(shared, silent, folder, args):
    serve(shared)
    args = [arg.replace("{folder}", str(folder)) for arg in args]
    done = vhostctl("-s", str(shared.socket), "--timeout", "1", *args, "--connect", silent[1], status=FAILED)
    assert done.stderr == "vhostctl: libvirt: no answer within 1 s\n"
    assert not list(folder.glob("*.img"))


def test_provision_is_interrupted_before_it_makes_anything(shared, silent, folder):
    listener, uri = silent
    process = subprocess.Popen([VHOSTCTL, "-s", shared.socket, *PROVISION, "--dir", folder, "--connect", uri])
    try:
        connection, _ = listener.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
    assert not list(folder.glob("*.img"))


def test_provision_says_what_is_left_by_libvirt(shared, libvirt, folder):
    """Nothing may be taken back that the domain may get yet."""
    done = vhostctl("-s", str(shared.socket), "--timeout", "1", *PROVISION, "--dir", str(folder), "--connect",
                    libvirt(domain("d")), env=trouble("attach-hangs"), status=FAILED)
    assert done.stderr == "vhostctl: libvirt: no answer within 1 s; everything may be left behind\n"
    assert (folder / "n.img").exists()
    assert shared.rpc("vhost_get_controllers")[0]["ctrlr"] == "n"


# ---- daemons of other versions ----

@pytest.mark.parametrize("ctrlrs", [
    [], [{}], [{"ctrlr": "c"}], [{"ctrlr": "c", "socket": 7}], ["c"], [None], {}, "c", 1, True])
def test_answers_of_others(fake, libvirt, ctrlrs):
    daemon = fake(vhost_get_controllers=ctrlrs)
    uri = libvirt(domain("one", disk("/run/c")))
    for args in (["xml", "c"], ["attach", "one", "c", "--connect", uri],
                 ["detach", "one", "c", "--connect", uri]):
        done = vhostctl("-s", daemon, "libvirt", *args, status=FAILED)
        assert "older or newer than vhostctl" in done.stderr
    vhostctl("-s", daemon, "libvirt", "list", "--connect", uri)
    done = vhostctl("-s", daemon, "libvirt", "check", "one", "--connect", uri, status=FAILED)
    assert "no controller has the socket" in done.stdout


def test_older_daemon(fake, libvirt):
    daemon = fake()
    for args in (["xml", "c"], ["list", "--connect", libvirt()]):
        done = vhostctl("-s", daemon, "libvirt", *args, status=FAILED)
        assert "is the daemon older than vhostctl" in done.stderr


@pytest.mark.parametrize("version", [{"version": "vhostd v99.0.0"}, {"version": 3}, {}, []])
def test_check_says_versions(fake, libvirt, version):
    daemon = fake(vhost_get_controllers=[], spdk_get_version=version)
    text = vhostctl("-s", daemon, "libvirt", "check", "one", "--json", "--connect",
                    libvirt(domain("one"))).stdout
    assert ("vhostd", "note") in findings(text)


# ---- arguments ----

@pytest.mark.parametrize("args", [
    ["libvirt"], ["libvirt", "reboot"], ["libvirt", "xml"], ["libvirt", "xml", "a", "b"],
    ["libvirt", "xml", ""], ["libvirt", "xml", "a", "--target"], ["libvirt", "xml", "a", "--target="],
    ["libvirt", "xml", "a", "--target", "vda", "--target", "vdb"], ["libvirt", "xml", "a", "--persistent"],
    ["libvirt", "xml", "a", "--queues", "0"], ["libvirt", "xml", "a", "--queues", "65"],
    ["libvirt", "xml", "a", "--queues", "-1"], ["libvirt", "xml", "a", "--queues", "2x"],
    ["libvirt", "xml", "a", "--queues", "99999999999999999999"],
    ["libvirt", "xml", b"\xff".decode("utf-8", "surrogateescape")],
    ["libvirt", "attach", "d"], ["libvirt", "attach", "d", "c", "--persistent=no"],
    ["libvirt", "detach", "d"], ["libvirt", "detach", "d", "c", "--queues", "2"],
    ["libvirt", "check"], ["libvirt", "check", "d", "c", "e"], ["libvirt", "list", "d"],
    ["provision"], PROVISION[:-2], PROVISION[:-1], [*PROVISION, "x"], [*PROVISION, "--size", "1M"],
    *(["provision", "--domain", "d", "--name", "n", "--size", size]
      for size in ("0", "-1M", "1.5G", "1000", "1MB", "1m", "M", "9223372036854775807K", "1E", " 1M")),
    *(["provision", "--size", "1M", "--domain", "d", "--name", name] for name in ("../x", ".x", "x" * 64))])
def test_usage(args):
    done = vhostctl("-s", "/nonexistent/rpc.sock", *args, status=USAGE)
    assert done.stdout == "" and "usage:" in done.stderr


def test_help_names_the_commands():
    text = vhostctl("--help").stdout
    manual = (ROOT / "docs/man/vhostctl.1").read_text()
    for verb in "xml", "attach", "detach", "check", "list":
        assert f"libvirt {verb}" in text or f", {verb}" in text
        assert f"libvirt {verb}" in manual
    assert vhostctl("libvirt", "--help").stdout == text == vhostctl("provision", "--help").stdout
