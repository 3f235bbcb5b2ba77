# SPDX-License-Identifier: BSD-3-Clause
"""vhostctl bench: its figures are true, its picture is one, and it destroys nothing unasked."""

import json
import os
import pty
import signal
import subprocess
import threading
import xml.etree.ElementTree as ElementTree

import pytest
from harness import DEADLINE, VHOSTCTL, vhostctl, wait_until
from test_vhostctl import FAILED, USAGE

MIB = 1 << 20
BRIEF = ("--seconds", "0.5", "--ramp", "0.1")


@pytest.fixture
def disk(shared):
    """A controller on 1 MiB of memory."""
    shared.rpc("bdev_malloc_create", name="m", num_blocks=MIB // 512, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="disk", dev_name="m")
    return shared


def bench(daemon, *args: str, status=0) -> dict:
    done = daemon.ctl("bench", *args, *BRIEF, "--json", status=status)
    return json.loads(done.stdout)


def stats(daemon) -> dict:
    return daemon.rpc("vhost_get_stats", ctrlr="disk")[0]


def test_figures(disk):
    report = bench(disk, "disk", "--bs", "8k", "--qd", "4", "--queues", "2", "--threads", "2")
    assert (report["controller"], report["rw"], report["bs"], report["qd"]) == (
        "disk", "randread", 8192, 4)
    assert report["queues"] == 2 and report["threads"] == 2 and report["errors"] == 0
    assert report["iops"] == pytest.approx(report["ios"] / report["seconds"], rel=0.2)
    assert report["mb_per_s"] == pytest.approx(report["iops"] * 8192 / 1e6)
    latencies = list(report["percentiles_us"].values())
    assert latencies == sorted(latencies) and latencies[0] > 0
    assert latencies[0] <= report["avg_us"] * 100 and report["avg_us"] <= latencies[-1] * 1.05
    # What is measured was done, and the ramp besides.
    assert stats(disk)["requests"] >= report["ios"] > 0


@pytest.mark.parametrize("options", [["--packed"], ["--event-idx"], ["--poll"], ["--rw=read"],
                                     ["--qd", "64", "--queues", "3"], ["--cpu", "0"]])
def test_options(disk, options):
    if "--packed" in options:
        disk.rpc("vhost_delete_controller", ctrlr="disk")
        disk.rpc("vhost_create_blk_controller", ctrlr="disk", dev_name="m", packed_ring=True)
    assert bench(disk, "disk", *options)["ios"] > 0


def test_a_socket(disk):
    """A path does not need the daemon's RPC: any vhost-user-blk back-end will do."""
    path = disk.rpc("vhost_get_controllers")[0]["socket"]
    done = vhostctl("-s", "/nonexistent/rpc.sock", "bench", path, *BRIEF)
    assert done.stdout.startswith(f"{path}: randread, 4096 bytes, queue depth 32, 1 queue on 1 thread")
    for word in ("IOPS", "MB/s", "errors", "average", "99.9"):
        assert word in done.stdout
    assert done.stderr == ""        # no progress where there is no terminal


def test_nothing_is_written_unasked(disk):
    for kind in ("write", "randwrite", "randrw"):
        done = disk.ctl("bench", "disk", "--rw", kind, *BRIEF, status=FAILED)
        assert "add --write" in done.stderr and done.stdout == ""
    assert stats(disk)["requests"] == 0
    bench(disk, "disk", "--write")                  # allows it, does not ask for it
    iostat = disk.rpc("bdev_get_iostat", name="m")["bdevs"][0]
    assert iostat["num_write_ops"] == 0 < iostat["num_read_ops"]
    done = disk.ctl("bench", "disk", "--rw", "randwrite", "--write", *BRIEF)
    assert "overwriting the 1 MiB of disk" in done.stderr
    assert disk.rpc("bdev_get_iostat", name="m")["bdevs"][0]["num_write_ops"] > 0


def test_a_guest_is_not_disturbed(disk, folder):
    path = disk.rpc("vhost_get_controllers")[0]["socket"]
    command = [str(VHOSTCTL), "bench", path, "--seconds", "60", "--ramp", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as guest:
        wait_until(lambda: stats(disk)["requests"], "the first one runs")
        assert "is in use" in disk.ctl("bench", "disk", *BRIEF, status=FAILED).stderr
        before = stats(disk)["requests"]
        assert "another front-end" in vhostctl("bench", path, *BRIEF, status=FAILED).stderr
        wait_until(lambda: stats(disk)["requests"] > before, "the first one goes on")
        guest.send_signal(signal.SIGINT)
        text = guest.stdout.read().decode()
        assert guest.wait(DEADLINE) == 0
    assert "IOPS" in text                           # of the time that it had
    wait_until(lambda: not disk.rpc("vhost_get_controllers")[0]["sessions"], "the session ends")


@pytest.mark.parametrize(("args", "text"), [
    (["nobody"], "No such device"),
    (["disk", "--packed"], "does not offer"),
    (["disk", "--queues", "65"], "--queues must be"),
    (["disk", "--bs", "2M"], "fewer blocks"),
    (["/nonexistent/socket"], "No such file"),
])
def test_what_cannot_be(disk, args, text):
    status = USAGE if "must be" in text else FAILED
    assert text in disk.ctl("bench", *args, *BRIEF, status=status).stderr


def test_a_read_only_disk(shared):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=4096)
    shared.rpc("vhost_create_blk_controller", ctrlr="ro", dev_name="n", readonly=True)
    done = shared.ctl("bench", "ro", "--rw", "write", "--write", *BRIEF, status=FAILED)
    assert "read-only" in done.stderr
    done = shared.ctl("bench", "ro", "--bs", "512", *BRIEF, status=FAILED)
    assert "blocks of 4096 bytes" in done.stderr


def test_failing_requests_are_counted(disk):
    disk.rpc("vhost_delete_controller", ctrlr="disk")
    disk.rpc("bdev_error_create", base_name="m")
    disk.rpc("vhost_create_blk_controller", ctrlr="disk", dev_name="EE_m")
    disk.rpc("bdev_error_inject_error", name="EE_m", io_type="read", error_type="failure", num=10**6)
    done = disk.ctl("bench", "disk", *BRIEF, "--json", status=FAILED)
    assert json.loads(done.stdout)["errors"] > 0 and "requests failed" in done.stderr


def test_the_daemon_dies(folder, idle_vhostd):
    idle_vhostd.start()
    idle_vhostd.rpc("bdev_null_create", name="n", num_blocks=1024, block_size=512)
    idle_vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="n")
    with subprocess.Popen([str(VHOSTCTL), "-s", str(idle_vhostd.socket), "bench", "c",
                           "--seconds", "60"], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: idle_vhostd.rpc("vhost_get_stats")[0]["requests"], "it runs")
        idle_vhostd.kill()
        assert "closed the connection" in process.communicate(timeout=DEADLINE)[1]
        assert process.returncode == FAILED


def test_stopped_in_the_ramp(disk):
    with subprocess.Popen([str(VHOSTCTL), "-s", str(disk.socket), "bench", "disk", "--ramp", "60"],
                          stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: stats(disk)["requests"], "it runs")
        process.send_signal(signal.SIGINT)
        assert "before the measurement" in process.communicate(timeout=DEADLINE)[1]
        assert process.returncode == FAILED


# ---- the picture ----

def test_svg(disk, folder):
    path = folder / "bench.svg"
    path.write_text("x" * 100000)                   # replaced whole
    disk.ctl("bench", "disk", "--svg", str(path), "--seconds", "1", "--ramp", "0")
    root = ElementTree.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    width, height = (float(n) for n in root.get("viewBox").split()[2:])
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts[0].startswith("disk: randread, 4096 bytes")
    assert {"Requests", "Latency", "0 s", "50", "99.99"} <= set(texts)
    lines = [path.get("d") for path in root.iter(f"{space}path") if path.get("class") == "line"]
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, point.split())) for point in line[1:].split("L")]
        assert len(points) >= 2
        assert all(0 < x < width and 0 < y < height for x, y in points)


def test_svg_of_a_name_that_is_markup(disk, folder):
    name = "a&b<c"
    disk.rpc("vhost_create_blk_controller", ctrlr=name, dev_name="m")
    disk.ctl("bench", name, "--svg", str(folder / "a.svg"), *BRIEF)
    text = next(ElementTree.parse(folder / "a.svg").getroot().iter("{http://www.w3.org/2000/svg}text"))
    assert text.text.startswith(f"{name}: ")


def test_svg_that_cannot_be_written(disk, folder):
    done = disk.ctl("bench", "disk", "--svg", str(folder / "no" / "a.svg"), *BRIEF, status=FAILED)
    assert "No such file" in done.stderr and done.stdout == ""      # said before, not after
    path = folder / "kept.svg"
    path.write_text("old")
    disk.ctl("bench", "disk", "--packed", "--svg", str(path), *BRIEF, status=FAILED)
    assert path.read_text() == "old"
    disk.ctl("bench", "disk", "--packed", "--svg", str(folder / "new.svg"), *BRIEF, status=FAILED)
    assert not (folder / "new.svg").exists()


# ---- progress ----

def test_progress_on_a_terminal(disk):
    master, slave = pty.openpty()
    seen = []

    def read():
        try:
            while piece := os.read(master, 4096):
                seen.append(piece)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with subprocess.Popen([str(VHOSTCTL), "-s", str(disk.socket), "bench", "disk", "--seconds",
                               "1"], stdout=subprocess.PIPE, stderr=slave) as process:
            os.close(slave)
            text = process.communicate(timeout=DEADLINE)[0].decode()
    finally:
        reader.join(DEADLINE)
        os.close(master)
    assert process.returncode == 0 and "IOPS" in text
    progress = b"".join(seen).decode()
    assert " %  " in progress and "IOPS" in progress and progress.endswith("\r\x1b[K")


@pytest.mark.parametrize("args", [
    [], ["a", "b"], ["a", "--rw", "erase"], ["a", "--bs", "513"], ["a", "--bs", "4x"],
    ["a", "--bs", "0"], ["a", "--qd", "0"], ["a", "--qd", "1.5"], ["a", "--qd"],
    ["a", "--threads", "2"], ["a", "--seconds", "nan"], ["a", "--cpu", "x"], ["a", "--poll=yes"],
    ["a", "--no-such-option"], ["a", "--bs", "1e300"]])
def test_usage(args):
    done = vhostctl("bench", *args, status=USAGE)
    assert "bench" in done.stderr and done.stdout == ""
