# SPDX-License-Identifier: BSD-3-Clause
"""The process itself: options, start and stop, signals, the state journal, idleness."""

import fcntl
import grp
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from harness import DEADLINE, ROOT, VHOSTD, Vhostd, wait_until

USAGE = 2
FAILED = 1


def run(*options, program=VHOSTD, **more):
    """A start that is expected to end by itself."""
    return subprocess.run([str(program), *options], capture_output=True, text=True, timeout=DEADLINE,
                          stdin=subprocess.DEVNULL, **more)


def fails(daemon, *options):
    """A start of that daemon that must fail; returns its last line."""
    process = daemon.spawn(*options)
    assert process.wait(DEADLINE) == FAILED
    return daemon.log_text().rstrip().splitlines()[-1]


def make_disk(daemon, name="disk0"):
    daemon.rpc("bdev_uring_create", name=name, filename=str(daemon.image(f"{name}.img")))
    daemon.rpc("vhost_create_blk_controller", ctrlr=f"vm.{name}", dev_name=name)


def names(daemon):
    return ([bdev["name"] for bdev in daemon.rpc("bdev_get_bdevs")],
            [controller["ctrlr"] for controller in daemon.rpc("vhost_get_controllers")])


# ---- options ----

@pytest.mark.parametrize("options, words", [
    (["--nonsense"], "--nonsense"),
    (["-l", "x"], "'x' is not a list of CPUs"),
    (["-l", "3-1"], "'3-1' is not a list of CPUs"),
    (["--cpus", ""], "'' is not a list of CPUs"),
    (["-m", "0xg"], "'0xg' is not a mask"),
    (["-m", "0"], "'0' is not a mask"),
    (["-m", "1" * 200], "is not a mask"),
    (["--mode", "fast"], "'fast' is not poll"),
    (["--log-level", "loud"], "'loud' is not ERROR"),
    (["--memory", "0"], "'0' is not a number of MiB"),
    (["--memory", "64k"], "'64k' is not a number of MiB"),
    (["--memory", "-5"], "'-5' is not a number of MiB"),
    (["--state", ""], "'' is not a path"),
    (["--config"], "--config"),
    (["disk.img"], "unexpected argument 'disk.img'"),
    (["--no-state=yes"], "no-state"),
])
def test_bad_option(options, words):
    """One line on stderr that names it, and status 2."""
    done = run(*options)
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_help_and_version():
    text = run("--help").stdout
    manual = (ROOT / "docs/man/vhostd.8").read_text().replace("\\-", "-")
    options = re.findall(r"--([a-z-]+)", text)
    assert len(set(options)) > 10
    for option in options:
        assert f"--{option}" in manual, f"--{option} is not in the manual"
    assert re.fullmatch(r"vhostd \d+\.\d+\.\d+\n", run("--version").stdout)
    assert run("-h").returncode == 0


def test_cpu_that_does_not_exist(folder):
    done = run("-l", "127", "-S", str(folder), "-r", str(folder / "rpc.sock"), "--no-state")
    assert done.returncode == FAILED
    assert "CPU 127" in done.stderr.splitlines()[-1]


def test_defaults_of_other_users(folder):
    """Without root the defaults are the user's own folders."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    folder.chmod(0o777)
    environment = {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    program = shutil.copy(VHOSTD, folder / "program")  # where it was built others may have no access
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program], user="nobody", group="nogroup", extra_groups=[],
                                   env=environment, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: "ready: " in (folder / "log").read_text() or process.poll() is not None,
                   "vhostd is ready")
        assert (folder / "vhostd" / "rpc.sock").is_socket()
        assert (folder / ".local/state/vhostd/state.json.lock").exists()
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0
    done = run(program=program, user="nobody", group="nogroup", extra_groups=[], env={})
    assert done.returncode == USAGE and "--socket-dir" in done.stderr


def test_group(idle_vhostd):
    """The group may attach disks, and not more."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to change the group")
    idle_vhostd.start("--group", "nogroup")
    make_disk(idle_vhostd)
    socket_stat = (idle_vhostd.folder / "vm.disk0").stat()
    assert socket_stat.st_gid == grp.getgrnam("nogroup").gr_gid
    assert socket_stat.st_mode & 0o777 == 0o770
    assert idle_vhostd.socket.stat().st_mode & 0o777 == 0o600
    assert idle_vhostd.state.stat().st_mode & 0o777 == 0o600
    assert "no group no-such-group" in fails(Vhostd(idle_vhostd.folder), "--group", "no-such-group")
    assert "no user no-such-user" in fails(Vhostd(idle_vhostd.folder), "--user", "no-such-user")


# ---- start ----

def test_ready(idle_vhostd):
    """systemd hears READY=1 when sockets listen, and the log has its line."""
    path = idle_vhostd.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(DEADLINE)
        os.environ["NOTIFY_SOCKET"] = str(path)
        try:
            idle_vhostd.process = idle_vhostd.spawn()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert "READY=1" in notify.recv(4096).decode()
        idle_vhostd.rpc("spdk_get_version")
        assert re.search(r"NOTICE: vhostd \S+ ready: CPUs 0x1, mode adaptive",
                         idle_vhostd.log_text())
        idle_vhostd.stop()
        assert "STOPPING=1" in notify.recv(4096).decode()


def test_affinity(vhostd):
    """The reactor is pinned to its CPU; nothing else runs there if there is another CPU."""
    allowed = os.sched_getaffinity(0)
    others = allowed - {0} or allowed
    pid = vhostd.process.pid
    assert os.sched_getaffinity(pid) == {0}
    tasks = {int(task): Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
             for task in os.listdir(f"/proc/{pid}/task")}
    assert {"signal", "vhost-events"} <= set(tasks.values())
    for task, name in tasks.items():
        if name != "vhostd":    # the main thread, and a sanitizer's own
            assert os.sched_getaffinity(task) == others, name


def test_limit_of_open_files(idle_vhostd):
    """Each queue takes three descriptors; the usual soft limit is 1024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        idle_vhostd.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    limits = Path(f"/proc/{idle_vhostd.process.pid}/limits").read_text()
    soft = re.search(r"^Max open files\s+(\d+)", limits, re.M).group(1)
    assert int(soft) == min(before[1], 65536)


@pytest.mark.parametrize("mode", ["poll", "interrupt"])
def test_mode(idle_vhostd, mode):
    idle_vhostd.start("--mode", mode)
    reactors = idle_vhostd.rpc("framework_get_reactors")["reactors"]
    assert [reactor["mode"] for reactor in reactors] == [mode]
    make_disk(idle_vhostd)


def test_two_reactors(idle_vhostd):
    if len(os.sched_getaffinity(0) & {0, 1}) < 2:
        pytest.skip("needs CPUs 0 and 1")
    idle_vhostd.start("-m", "3")
    for number in range(4):
        make_disk(idle_vhostd, f"disk{number}")
    reactors = idle_vhostd.rpc("framework_get_reactors")["reactors"]
    assert [reactor["lcore"] for reactor in reactors] == [0, 1]
    # The app thread and four controllers.
    assert sorted(len(reactor["lw_threads"]) for reactor in reactors) == [2, 3]


def test_socket_folder_missing(idle_vhostd):
    missing = idle_vhostd.folder / "no" / "such" / "folder"
    assert str(missing) in fails(idle_vhostd, "-S", str(missing))


def test_socket_folder_is_a_file(idle_vhostd):
    file = idle_vhostd.image("file")
    assert str(file) in fails(idle_vhostd, "-S", str(file))


def test_rpc_socket_path_too_long(idle_vhostd):
    path = idle_vhostd.folder / ("x" * 108)
    assert "107" in fails(idle_vhostd, "-r", str(path))


def test_rpc_socket_in_use(vhostd):
    other = Vhostd(vhostd.folder)
    assert str(vhostd.socket) in fails(other, "--no-state")
    assert names(vhostd) == ([], [])    # it still answers


# ---- stop ----

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal(vhostd, number):
    make_disk(vhostd)
    vhostd.process.send_signal(signal.SIGHUP)
    vhostd.process.send_signal(signal.SIGPIPE)
    assert names(vhostd) == (["disk0"], ["vm.disk0"])
    vhostd.process.send_signal(number)
    assert vhostd.wait() == 0
    assert not vhostd.socket.exists()
    assert not (vhostd.folder / "vm.disk0").exists()
    assert f"stopping on {number.name}" in vhostd.log_text()


def test_stop_during_start(idle_vhostd):
    """At whatever moment the signal comes, it ends in order."""
    for delay in range(0, 200, 20):
        process = idle_vhostd.spawn()
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) in (0, -signal.SIGTERM)   # the latter: before main()
        assert not idle_vhostd.socket.exists()


def test_stop_with_a_connected_client(vhostd):
    with vhostd.connect() as client:
        client.call("spdk_get_version")
        vhostd.stop()
        assert client.next() is None


def test_kill_instance(vhostd):
    assert vhostd.rpc("spdk_kill_instance", sig_name="SIGTERM") is True
    assert vhostd.wait() == 0


def test_nothing_is_left_behind(vhostd):
    make_disk(vhostd)
    vhostd.stop()
    assert sorted(path.name for path in vhostd.folder.iterdir()) == [
        "disk0.img", "state.json", "state.json.lock", "vhostd.log"]


def test_kills_pile_nothing_up(vhostd):
    """What a killed daemon leaves is what the next one takes over."""
    make_disk(vhostd)
    before = set(vhostd.folder.iterdir())
    for _ in range(2):
        vhostd.kill()
        vhostd.start()
    assert set(vhostd.folder.iterdir()) == before


# ---- the state journal ----

def test_state_comes_back(vhostd):
    make_disk(vhostd)
    vhostd.rpc("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
    before, state = names(vhostd), vhostd.state.read_text()
    vhostd.stop()
    vhostd.start()
    assert names(vhostd) == before
    vhostd.kill()
    vhostd.start()
    assert names(vhostd) == before
    assert vhostd.state.read_text() == state
    assert json.loads(state) | {"version": 1} == json.loads(state)


def test_state_is_there_before_the_answer(vhostd):
    for number in range(20):
        vhostd.rpc("bdev_null_create", name=f"n{number}", num_blocks=8, block_size=512)
        vhostd.kill()
        vhostd.start()
        assert len(names(vhostd)[0]) == number + 1


def test_killed_at_any_moment(vhostd):
    """What was answered is there; what was not may be; nothing is damaged."""
    known = set()
    for round_ in range(5):
        with vhostd.connect() as client:
            for number in range(50):
                request = {"jsonrpc": "2.0", "id": number, "method": "bdev_null_create", "params": {
                    "name": f"n{round_}.{number}", "num_blocks": 8, "block_size": 512}}
                client.send(json.dumps(request).encode())
            for _ in range(round_ * 10):
                known.add(client.next()["result"])
            vhostd.kill()
        vhostd.start()
        found = set(names(vhostd)[0])
        assert known <= found
        known = found


def make_scsi_targets(vhostd):
    """Two, of which the disk of the second one is missing at the next start."""
    for name in "ab":
        vhostd.rpc("bdev_uring_create", name=name, filename=str(vhostd.image(f"{name}.img")))
    vhostd.rpc("vhost_create_scsi_controller", ctrlr="scsi")
    for number, name in enumerate("ab"):
        assert vhostd.rpc("vhost_scsi_controller_add_target", ctrlr="scsi", scsi_target_num=number,
                          bdev_name=name) == number
    vhostd.stop()
    (vhostd.folder / "b.img").rename(vhostd.folder / "away.img")
    vhostd.start()
    assert [entry["method"] for entry in vhostd.rpc("framework_get_state")["failed"]
            if entry["name"] == "scsi"] == ["vhost_scsi_controller_add_target",
                                            "vhost_start_scsi_controller"]
    # A guest that goes on waits for all of its disks.
    assert not (vhostd.folder / "scsi").exists()


def test_missing_scsi_target_is_removed(vhostd):
    make_scsi_targets(vhostd)
    assert vhostd.rpc("vhost_scsi_controller_remove_target", ctrlr="scsi", scsi_target_num=1) is True
    # The controller listens before its entry is known to have succeeded.
    wait_until(lambda: [entry["name"] for entry in vhostd.rpc("framework_get_state")["failed"]] == ["b"],
               "the controller is started")
    assert (vhostd.folder / "scsi").exists()


def test_missing_scsi_target_is_waived(vhostd):
    make_scsi_targets(vhostd)
    assert vhostd.rpc("vhost_start_scsi_controller", ctrlr="scsi") is True
    assert (vhostd.folder / "scsi").exists()
    vhostd.stop()
    (vhostd.folder / "away.img").rename(vhostd.folder / "b.img")
    vhostd.start()
    assert vhostd.rpc("framework_get_state")["failed"] == []
    assert (vhostd.folder / "scsi").exists()


def test_missing_disk_is_not_forgotten(vhostd):
    make_disk(vhostd, "a")
    make_disk(vhostd, "b")
    vhostd.stop()
    state = vhostd.state.read_text()
    (vhostd.folder / "a.img").rename(vhostd.folder / "away.img")
    vhostd.start()
    assert names(vhostd) == (["b"], ["vm.b"])
    assert "a (bdev_uring_create)" in vhostd.log_text()
    assert "vm.a (vhost_create_blk_controller)" in vhostd.log_text()
    vhostd.rpc("bdev_null_create", name="c", num_blocks=8, block_size=512)
    vhostd.stop()
    (vhostd.folder / "away.img").rename(vhostd.folder / "a.img")
    vhostd.start()
    assert names(vhostd) == (["a", "b", "c"], ["vm.a", "vm.b"])
    vhostd.rpc("bdev_null_delete", name="c")
    assert vhostd.state.read_text() == state


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"subsystems": [{"subsystem": "bdev", "config": 3}]}'])
def test_damaged_state(idle_vhostd, text):
    idle_vhostd.state.write_text(text)
    for _ in range(2):
        assert "state.json.damaged-1" in fails(idle_vhostd)
    aside = idle_vhostd.folder / "state.json.damaged-1"
    assert aside.read_text() == text
    assert not idle_vhostd.state.exists()
    aside.unlink()
    idle_vhostd.start()


def test_state_in_use(vhostd):
    other = Vhostd(vhostd.folder)
    assert "another vhostd uses it" in fails(other, "-r", str(vhostd.folder / "other.sock"))


def test_state_not_writable(vhostd):
    """The client hears of it, and the daemon goes on."""
    (vhostd.folder / "state.json.tmp").mkdir()
    error = vhostd.error("bdev_null_create", name="n", num_blocks=8, block_size=512)
    assert "state.json" in error.message
    (vhostd.folder / "state.json.tmp").rmdir()
    vhostd.rpc("bdev_null_create", name="o", num_blocks=8, block_size=512)
    assert {"n", "o"} == set(re.findall(r'"name": "(.)"', vhostd.state.read_text()))


def test_config_for_the_first_start(idle_vhostd):
    config = idle_vhostd.folder / "config.json"
    entry = {"method": "bdev_null_create",
             "params": {"name": "n", "num_blocks": 8, "block_size": 512}}
    config.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [entry]}]}))
    idle_vhostd.start("-c", str(config))
    assert names(idle_vhostd) == (["n"], [])
    idle_vhostd.rpc("bdev_null_delete", name="n")
    idle_vhostd.kill()
    idle_vhostd.start("-c", str(config))
    assert names(idle_vhostd) == ([], [])
    assert f"{config} is not loaded" in idle_vhostd.log_text()


def test_bad_config(idle_vhostd):
    config = idle_vhostd.folder / "config.json"
    assert str(config) in fails(idle_vhostd, "-c", str(config))
    config.write_text("{\n\n  nonsense")
    assert "line 3" in fails(idle_vhostd, "-c", str(config))


def test_wait_for_rpc(idle_vhostd):
    idle_vhostd.start("--wait-for-rpc")
    assert "may only be called" in idle_vhostd.error("bdev_get_bdevs").message
    assert "ready: " not in idle_vhostd.log_text()
    idle_vhostd.rpc("framework_start_init")
    assert names(idle_vhostd) == ([], [])
    assert "ready: " in idle_vhostd.log_text()


# ---- idle ----

def test_idle_costs_nothing(vhostd):
    """It sleeps: with ten controllers it takes under 1 % of a core."""
    for number in range(10):
        make_disk(vhostd, f"disk{number}")

    def cpu_ticks():
        with open(f"/proc/{vhostd.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def idles():
        before = cpu_ticks()
        time.sleep(3)
        return cpu_ticks() - before <= 3 * os.sysconf("SC_CLK_TCK") // 100

    wait_until(idles, "sleep")


def test_log_has_no_escape_sequences(vhostd):
    """What clients send cannot forge lines or drive the terminal."""
    vhostd.error("bdev_null_create", name="x\n2026-01-01 vhostd: ERROR: forged\x1b[2J",
                 num_blocks=8, block_size=512)
    text = vhostd.log_text()
    assert "\x1b" not in text
    assert not re.search(r"^2026-01-01", text, re.M)


def test_lock_is_an_ofd_lock(vhostd):
    """A process that merely opens and closes the lock file does not take the lock away."""
    with open(f"{vhostd.state}.lock", "rb+") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    other = Vhostd(vhostd.folder)
    assert "another vhostd uses it" in fails(other, "-r", str(vhostd.folder / "other.sock"))
