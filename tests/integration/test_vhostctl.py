# SPDX-License-Identifier: BSD-3-Clause
"""The command-line client: its arguments, its tables, its errors."""

import json
import os
import re
import subprocess
import threading

import pytest
from fake_daemon import FakeDaemon
from harness import DEADLINE, ROOT, VHOSTCTL, vhostctl

FAILED, USAGE = 1, 2


@pytest.fixture
def serve(folder):
    """A server that answers what a test says; None: nothing, and not soon."""
    daemons = []
    hold = threading.Event()

    def start(answer: bytes | None):
        def reply(_):
            if answer is None:
                hold.wait(60)
            return answer or b""

        daemons.append(FakeDaemon(folder / "fake.sock", reply))
        return str(daemons[-1].path)

    yield start
    hold.set()
    for daemon in daemons:
        daemon.stop()


def rows(text: str) -> list[dict]:
    """Reads a table: its columns are two or more spaces apart."""
    heading, *lines = text.splitlines()
    columns = re.split(r" {2,}", heading.strip())
    return [dict(zip(columns, re.split(r" {2,}", line.strip()), strict=True)) for line in lines]


# ---- without a daemon ----

def test_help_and_version():
    text = vhostctl("--help").stdout
    for word in ("usage:", "save-config", "load-config", "bdev_malloc_create", "--timeout"):
        assert word in text
    assert re.fullmatch(r"vhostctl \d+\.\d+\.\d+.*\n", vhostctl("--version").stdout)


def test_help_of_every_method():
    methods = [line[4:] for line in vhostctl("--markdown").stdout.splitlines()
               if line.startswith("### ")]
    assert len(methods) > 30
    for method in methods:
        text = vhostctl(method, "--help").stdout
        assert text.startswith(f"usage: vhostctl {method}")
        assert vhostctl(method.replace("_", "-"), "--help").stdout == text
    for command in ("save-config", "load-config", "call", "nvme", "top", "trace", "bench",
                    "doctor"):
        assert vhostctl(command, "--help").stdout == vhostctl("--help").stdout
    assert "--num_blocks VALUE" in vhostctl("bdev_malloc_create", "--help").stdout


def test_documentation_is_up_to_date():
    document = (ROOT / "docs" / "rpc.md").read_text()
    assert document == vhostctl("--markdown").stdout, "run `make docs`"


@pytest.mark.parametrize("args", [
    [], ["no_such_method"], ["--no-such-option"], ["-s"], ["--timeout", "0", "rpc_get_methods"],
    ["--timeout", "x", "rpc_get_methods"], ["bdev_malloc_create"],
    ["bdev_malloc_create", "--num_blocks", "8"],
    ["bdev_malloc_create", "--num_blocks", "eight", "--block_size", "512"],
    ["bdev_malloc_create", "--num_blocks", "0", "--block_size", "512"],
    ["bdev_malloc_create", "--num_blocks", "99999999999999999999", "--block_size", "512"],
    ["bdev_malloc_create", "--num_blocks", "8", "--num-blocks", "8", "--block_size", "512"],
    ["bdev_malloc_create", "8", "512"], ["bdev_malloc_delete", "--name"],
    ["bdev_malloc_delete", "--name", "m", "--force"],
    ["vhost_create_blk_controller", "--ctrlr", "c", "--dev_name", "d", "--cpumask", "zz"],
    ["vhost_create_blk_controller", "--ctrlr", "c", "--dev_name", "d", "--readonly", "maybe"],
    ["bdev_null_delete", "--name", b"\xff\xfe".decode("utf-8", "surrogateescape")],
    ["bdev_get_iostat", "--names", b"a,\xff".decode("utf-8", "surrogateescape")],
    ["load-config"], ["save-config", "-o"], ["save-config", "now"], ["call"],
    ["call", "rpc_get_methods", "{"]])
def test_usage_errors(args):
    done = vhostctl("-s", "/nonexistent/rpc.sock", *args, status=USAGE)
    assert done.stderr.startswith("vhostctl: ") and "usage:" in done.stderr
    assert done.stdout == ""


def test_usage_of_a_method():
    done = vhostctl("bdev_null_delete", "--force", status=USAGE)
    assert done.stderr.splitlines()[1:] == ["usage: vhostctl bdev_null_delete --name VALUE"]


def test_no_daemon(folder):
    path = folder / "rpc.sock"
    done = vhostctl("-s", str(path), "rpc_get_methods", status=FAILED)
    assert str(path) in done.stderr and "does vhostd run?" in done.stderr
    done = vhostctl("rpc_get_methods", status=FAILED,
                    env=os.environ | {"VHOSTD_RPC_SOCKET": str(path)})
    assert str(path) in done.stderr
    vhostctl("-s", "/" + "x" * 200, "rpc_get_methods", status=FAILED)


def test_default_socket(folder):
    """Of a user's own daemon, if there is one."""
    env = os.environ | {"XDG_RUNTIME_DIR": str(folder)}
    env.pop("VHOSTD_RPC_SOCKET", None)
    assert str(folder) not in vhostctl("no_such_method", status=USAGE, env=env).stderr
    own = folder / "vhostd" / "rpc.sock"
    own.parent.mkdir()
    own.touch()
    done = vhostctl("rpc_get_methods", status=FAILED, env=env)
    assert str(own) in done.stderr


def test_silent_daemon(serve):
    path = serve(None)
    done = vhostctl("-s", path, "--timeout", "1", "rpc_get_methods", status=FAILED)
    assert "timed out" in done.stderr


@pytest.mark.parametrize("answer", [b"", b"what?", b"{", b"[]", b"{}", b'{"error":1}', b"\xff"])
def test_bad_answers(serve, answer):
    done = vhostctl("-s", serve(answer), "rpc_get_methods", status=FAILED)
    assert done.stderr.startswith("vhostctl: rpc_get_methods: ")


def test_save_config_asks_for_all_parts_at_once(folder):
    """Asked for one by one, they need not fit together: others make and delete meanwhile."""
    requests, answers = [], [[{"subsystem": "a"}, {"subsystem": "b"}], [[], None]]

    def reply(text: bytes) -> bytes:
        requests.append(request := json.loads(text))
        answer = answers[len(requests) - 1]
        return json.dumps([{"id": 1, "result": part} for part in answer] if isinstance(request, list) else
                          {"id": 1, "result": answer}).encode()

    daemon = FakeDaemon(folder / "fake.sock", reply)
    saved = json.loads(vhostctl("-s", str(daemon.path), "save-config").stdout)
    daemon.stop()
    assert saved == {"subsystems": [{"subsystem": "a", "config": []},
                                    {"subsystem": "b", "config": None}]}
    assert [(part["method"], part["params"]["name"]) for part in requests[1]] == \
        [("framework_get_config", "a"), ("framework_get_config", "b")]


def test_control_characters_do_not_reach_the_terminal(serve):
    answer = {"jsonrpc": "2.0", "id": 1, "result": [{"name": "a\x1b[2Jb", "product_name": "\n"}]}
    done = vhostctl("-s", serve(json.dumps(answer).encode()), "bdev_get_bdevs")
    assert "\x1b" not in done.stdout and "a?[2Jb" in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_c1_control_characters_do_not_reach_the_terminal(serve):
    """Some terminals take CSI as one."""
    answer = {"jsonrpc": "2.0", "id": 1, "result": [{"name": "a\u009b2Jb\u0080ü", "product_name": "x"}]}
    done = vhostctl("-s", serve(json.dumps(answer).encode()), "bdev_get_bdevs")
    assert "a?2Jb?ü " in done.stdout


def test_control_characters_of_errors_do_not_reach_the_terminal(serve):
    answer = {"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "a\x1b[2Jb\nc\u009bdü"}}
    done = vhostctl("-s", serve(json.dumps(answer).encode()), "bdev_get_bdevs", status=FAILED)
    assert done.stderr == "vhostctl: bdev_get_bdevs: a?[2Jb?c?dü (-1)\n"


def test_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(VHOSTCTL), "--help"], stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=DEADLINE)
    assert done.returncode == FAILED and "cannot write" in done.stderr


# ---- with one ----

def test_create_list_delete(shared):
    assert shared.ctl("bdev-malloc-create", "--num-blocks", "2048", "--block-size=512",
                      "--name", "m").stdout == "m\n"
    table = rows(shared.ctl("bdev_get_bdevs").stdout)
    assert len(table) == 1 and table[0]["name"] == "m"
    assert table[0]["num_blocks"] == "2048" and table[0]["claimed"] == "no"
    assert shared.ctl("vhost_create_blk_controller", "--ctrlr", "c", "--dev_name", "m",
                      "--readonly", "--cpumask", "[0]").stdout == ""
    table = rows(shared.ctl("vhost_get_controllers").stdout)
    assert table[0]["ctrlr"] == "c" and table[0]["bdev"] == "m"
    assert table[0]["readonly"] == "yes" and table[0]["socket"] == str(shared.folder / "c")
    assert table[0]["sessions"] == "-"
    done = shared.ctl("bdev_malloc_delete", "--name", "m", status=FAILED)
    assert "(-16)" in done.stderr and done.stdout == ""
    shared.ctl("vhost_delete_controller", "--ctrlr", "c")
    shared.ctl("bdev_malloc_delete", "--name", "m")
    assert shared.ctl("bdev_get_bdevs").stdout.splitlines()[1:] == []


def test_booleans(shared):
    shared.ctl("bdev_null_create", "--name", "n", "--num_blocks", "0x10", "--block_size", "512")
    for ctrlr, args, readonly in (("a", ["--readonly", "true"], "yes"),
                                  ("b", ["--readonly=false"], "no"), ("c", ["--readonly"], "yes")):
        shared.ctl("vhost_create_blk_controller", *args, "--ctrlr", ctrlr, "--dev_name", "n")
        table = rows(shared.ctl("vhost_get_controllers", "--name", ctrlr).stdout)
        assert table[0]["readonly"] == readonly
    assert shared.rpc("bdev_get_bdevs")[0]["num_blocks"] == 16


def test_json(shared):
    shared.ctl("bdev_null_create", "--name", "n", "--num_blocks", "8", "--block_size", "512")
    answer = shared.rpc("bdev_get_bdevs")
    assert json.loads(shared.ctl("--json", "bdev_get_bdevs").stdout) == answer
    assert json.loads(shared.ctl("bdev_get_bdevs", "--json").stdout) == answer
    assert shared.ctl("--json", "log_get_level").stdout == '"NOTICE"\n'
    assert shared.ctl("log_get_level").stdout == "NOTICE\n"


def test_lists_and_objects(shared):
    methods = shared.ctl("rpc_get_methods").stdout.splitlines()
    assert methods == shared.rpc("rpc_get_methods")
    assert "version: vhostd v" in shared.ctl("spdk_get_version").stdout
    for line in shared.ctl("log_get_flags").stdout.splitlines():
        assert re.fullmatch(r"\w+: no", line)
    for name in ("a", "b", "c"):
        shared.rpc("bdev_null_create", name=name, num_blocks=8, block_size=512)
    table = rows(shared.ctl("bdev_get_iostat", "--names", "c,a").stdout)
    assert [row["name"] for row in table] == ["c", "a"] and table[0]["reads"] == "0"


def test_tables_of_the_daemon(shared):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="n")
    row, = rows(shared.ctl("vhost_get_stats").stdout)
    assert (row["ctrlr"], row["queues"], row["requests"]) == ("c", "0", "0")
    row = rows(shared.ctl("notify_get_notifications").stdout)[-1]
    assert (row["type"], row["ctx"]) == ("vhost_controller_create", "c")
    assert "state: running" in shared.ctl("framework_get_state").stdout.splitlines()
    assert "bdev_register" in shared.ctl("notify_get_types").stdout.splitlines()
    assert rows(shared.ctl("virtio_blk_get_transports").stdout) == [{"name": "vhost_user_blk"}]
    for row in rows(shared.ctl("framework_get_pci_devices").stdout):
        assert set(row) == {"address", "type", "driver"}
    shared.ctl("vhost_controller_set_coalescing", "--ctrlr", "c", "--delay-base-us", "10",
               "--iops-threshold", "1000")
    assert shared.rpc("vhost_get_controllers")[0]["delay_base_us"] == 10


def test_scsi_targets(shared):
    for name in ("a", "b", "c"):
        shared.rpc("bdev_null_create", name=name, num_blocks=8, block_size=512)
    shared.ctl("vhost_create_scsi_controller", "--ctrlr", "s")
    add = ("vhost_scsi_controller_add_target", "--ctrlr", "s", "--scsi-target-num")
    assert shared.ctl(*add, "4", "--bdev-name", "a").stdout == "4\n"
    assert shared.ctl(*add, "-1", "--bdev-name=b,c").stdout == "0\n"
    row, = rows(shared.ctl("vhost_get_controllers").stdout)
    assert row["luns"] == "b,c,a" and row["bdev"] == "-"
    shared.ctl("vhost_scsi_controller_remove_target", "--ctrlr", "s", "--scsi-target-num", "0")
    row, = rows(shared.ctl("vhost_get_controllers").stdout)
    assert row["luns"] == "a"


def test_tables_of_threads(shared):
    assert rows(shared.ctl("framework_get_reactors").stdout)[0]["lcore"] == "0"
    names = [thread["name"] for thread in shared.rpc("thread_get_stats")["threads"]]
    for method in ("thread_get_stats", "thread_get_pollers", "thread_get_io_channels"):
        assert [row["name"] for row in rows(shared.ctl(method).stdout)] == names


def test_call(shared):
    assert shared.ctl("call", "log_get_level").stdout == "NOTICE\n"
    shared.ctl("call", "bdev_null_create", '{"name":"n","num_blocks":8,"block_size":512}')
    assert shared.ctl("call", "bdev_get_bdevs", "{}", "--json").stdout == \
        shared.ctl("bdev_get_bdevs", "--json").stdout
    done = shared.ctl("call", "no_such_method", status=FAILED)
    assert done.stderr == "vhostctl: no_such_method: Method not found (-32601)\n"


def test_errors(shared):
    done = shared.ctl("vhost_delete_controller", "--ctrlr", "none", status=FAILED)
    assert re.fullmatch(r"vhostctl: vhost_delete_controller: .*none.*No such device \(-19\)\n",
                        done.stderr)
    done = shared.ctl("framework_start_init", status=FAILED)
    assert "(-1)" in done.stderr
