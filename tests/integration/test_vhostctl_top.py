# SPDX-License-Identifier: BSD-3-Clause
"""vhostctl top: figures that are true, on terminals of any size, with daemons of any age."""

import base64
import contextlib
import json
import re
import signal
import struct
import subprocess
import threading

import pytest
from fake_daemon import FakeDaemon
from harness import DEADLINE, VHOSTCTL, VHOSTD, vhostctl, wait_until
from terminal import Terminal
from test_vhostctl import FAILED, USAGE

VHOST_LOAD = VHOSTD.with_name("vhost_load")


# ---- figures, of a daemon that says what a test wants ----

class TopDaemon(FakeDaemon):
    """Answers batches with what `answers` says of a method: a value, or None, an error."""

    def __init__(self, path) -> None:
        self.answers: dict = {}
        self.rounds = 0
        self.silent = False
        self.hold = threading.Event()
        super().__init__(path, self.answer)

    def answer(self, text: bytes) -> bytes:
        if self.silent:
            self.hold.wait(60)
        batch = []
        for request in json.loads(text):
            value = self.answers.get(request["method"])
            if callable(value):
                value = value(self.rounds, request.get("params"))
            if request["method"] == "spdk_get_version":
                self.rounds += 1
            batch.append({"jsonrpc": "2.0", "id": request["id"]} | (
                {"error": {"code": -32601, "message": "no such method"}} if value is None
                else {"result": value}))
        return json.dumps(batch).encode()

    def stop(self) -> None:
        self.hold.set()
        super().stop()


def controller(name: str, bdev: str) -> dict:
    return {"ctrlr": name, "sessions": [], "backend_specific": {"block": {"bdev": bdev}}}


def iostat(round_: int, **bdevs) -> dict:
    """Ticks are microseconds, and between two rounds lie two seconds. bdevs: ops and ticks of them."""
    return {"tick_rate": 1000000, "ticks": 10**9 + round_ * 2000000, "bdevs": [
        {"name": name, "num_read_ops": ops * round_, "read_latency_ticks": ticks * round_,
         "bytes_read": ops * round_ * 4096, "bytes_written": 0, "num_write_ops": 0,
         "num_unmap_ops": 0, "num_flush_ops": 0, "write_latency_ticks": 0,
         "unmap_latency_ticks": 0, "flush_latency_ticks": 0} for name, (ops, ticks) in bdevs.items()]}


def histogram(counts: dict[int, int]) -> dict:
    buckets = [0] * (58 * 128)
    for bucket, count in counts.items():
        buckets[bucket] = count
    return {"bucket_shift": 7, "min_range": 0, "max_range": 57, "tsc_rate": 1000000,
            "histogram": base64.b64encode(struct.pack(f"<{len(buckets)}Q", *buckets)).decode()}


def ctrlr_stats(name: str, requests: int, **more) -> dict:
    return {"ctrlr": name, "running_queues": 2, "inflight": 5, "requests": requests,
            "bytes_read": requests * 4097, "bytes_written": requests * 16, "errors": 3,
            "breaks": 1} | more


@pytest.fixture
def fake(folder):
    daemon = TopDaemon(folder / "fake.sock")
    # Since the beginning: 100 ops of 1 ms before the first look, twice that before the second...
    daemon.answers = {
        "spdk_get_version": {"version": "vhostd v9"},
        "framework_get_reactors": lambda n, _: {"pid": 42, "reactors": [
            {"lcore": 0, "busy": 250 * n, "idle": 750 * n, "mode": "poll", "lw_threads": [1, 2]},
            {"lcore": 7, "busy": 0, "idle": 0, "mode": "interrupt", "lw_threads": []}]},
        "vhost_get_controllers": [controller("fast", "f"), controller("slow", "s"),
                                  controller("idle", "i")],
        "vhost_get_stats": lambda n, _: [ctrlr_stats("fast", 2000 * n), ctrlr_stats("slow", 100 * n),
                                         ctrlr_stats("idle", 7, inflight=0, errors=0)],
        "bdev_get_iostat": lambda n, _: iostat(n, f=(2000, 100000), s=(100, 100000), i=(0, 0)),
        "framework_get_config": [
            {"method": "bdev_enable_histogram", "params": {"name": "f", "enable": True}},
            {"method": "bdev_enable_histogram", "params": {"name": "s", "enable": False}}],
        "bdev_get_histogram": lambda n, params: histogram(
            {10: 5 + 980 * n, 127: 20 * n}) if params == {"name": "f"} else None,
    }
    yield daemon
    daemon.stop()


def once(daemon, *args: str) -> dict:
    done = vhostctl("-s", str(daemon.path), "top", "--once", "--json", "--interval", "0.1", *args)
    return json.loads(done.stdout)


def test_rates(fake):
    sample = once(fake)
    assert sample["daemon"] == {"version": "vhostd v9", "pid": 42, "socket": str(fake.path)}
    assert sample["seconds"] == 2
    assert sample["controllers"] == [
        {"ctrlr": "fast", "bdev": "f", "queues": 2, "iops": 1000, "read_mb_per_s": 4.096,
         "written_mb_per_s": 0, "avg_us": 50, "p99_us": 127, "inflight": 5, "errors": 3, "breaks": 1},
        {"ctrlr": "slow", "bdev": "s", "queues": 2, "iops": 50, "read_mb_per_s": 0.205,
         "written_mb_per_s": 0, "avg_us": 1000, "p99_us": None, "inflight": 5, "errors": 3,
         "breaks": 1},
        {"ctrlr": "idle", "bdev": "i", "queues": 2, "iops": 0, "read_mb_per_s": 0,
         "written_mb_per_s": 0, "avg_us": None, "p99_us": None, "inflight": 0, "errors": 0,
         "breaks": 1}]
    assert sample["reactors"] == [{"core": 0, "mode": "poll", "busy": 0.25, "threads": 2},
                                  {"core": 7, "mode": "interrupt", "busy": None, "threads": 0}]


@pytest.mark.parametrize(("bucket", "end"), [(0, 0), (127, 127), (128, 128), (255, 255), (256, 257),
                                             (383, 511), (384, 515), (128 * 57 + 127, 2**64 - 1)])
def test_histogram_buckets(fake, bucket, end):
    fake.answers["bdev_get_histogram"] = lambda n, _: histogram({bucket: n})
    assert once(fake)["controllers"][0]["p99_us"] == pytest.approx(end)


@pytest.mark.parametrize("broken", [
    {"histogram": "AAAA"}, {"histogram": "*" * 79192}, {"histogram": 5}, {"bucket_shift": 0},
    {"bucket_shift": 40}, {"max_range": 10**9}, {"max_range": -1}, {"min_range": 3}, {"tsc_rate": 0}])
def test_a_histogram_that_is_none(fake, broken):
    fake.answers["bdev_get_histogram"] = lambda n, _: histogram({5: n}) | broken
    assert once(fake)["controllers"][0]["p99_us"] is None


def test_several_disks_behind_a_scsi_controller(fake):
    fake.answers["vhost_get_controllers"] = [{"ctrlr": "fast", "backend_specific": {"scsi": [
        {"luns": [{"id": 0, "bdev_name": "f"}, {"id": 1, "bdev_name": "s"}]},
        {"luns": [{"id": 0, "bdev_name": "f"}]}]}}]
    entry, = once(fake)["controllers"]
    assert entry["bdev"] == "f and 1 more" and entry["iops"] == 1000
    assert entry["avg_us"] == pytest.approx(200000 / 2100, abs=0.01) and entry["p99_us"] is None


@pytest.mark.parametrize("method", ["spdk_get_version", "framework_get_reactors",
                                    "vhost_get_controllers", "vhost_get_stats", "bdev_get_iostat",
                                    "framework_get_config", "bdev_get_histogram"])
@pytest.mark.parametrize("answer", [None, [], {}, "text", 7, [7, None, {"ctrlr": 5}]])
def test_other_daemons(fake, method, answer):
    """A method that is missing, or answers something else: what is not known is not shown."""
    fake.answers[method] = answer
    sample = once(fake)
    entries = sample["controllers"]
    if method == "vhost_get_controllers":
        assert entries == []
    else:
        assert [entry["ctrlr"] for entry in entries] == ["fast", "slow", "idle"]
    if method == "vhost_get_stats":     # what the block devices count
        assert entries[0]["iops"] == 1000 and entries[0]["read_mb_per_s"] == 4.096
        assert entries[0]["errors"] is None
    if method == "bdev_get_iostat":
        assert entries[0]["avg_us"] is None and entries[0]["iops"] > 0
    if method in ("framework_get_config", "bdev_get_histogram"):
        assert entries[0]["p99_us"] is None and entries[0]["avg_us"] == 50
    text = vhostctl("-s", str(fake.path), "top", "--once", "--interval", "0.1").stdout
    assert "CONTROLLER" in text


def test_counters_that_begin_anew(fake):
    fake.answers["vhost_get_stats"] = lambda n, _: [ctrlr_stats("fast", 10**9 if n == 1 else 500)]
    assert once(fake)["controllers"][0]["iops"] == 250
    fake.answers["framework_get_reactors"] = lambda n, _: {"pid": 100 + n, "reactors": []}
    assert once(fake)["controllers"][0]["iops"] is None     # another process


def test_an_answer_that_is_no_batch(fake):
    fake.reply = lambda text: b'{"jsonrpc": "2.0", "id": null, "error": {"code": 1, "message": "m"}}'
    done = vhostctl("-s", str(fake.path), "top", "--once", status=FAILED)
    assert "no JSON-RPC answer" in done.stderr


# ---- tables ----

def table(fake, *args: str) -> list[dict]:
    text = vhostctl("-s", str(fake.path), "top", "--once", "--interval", "0.1", *args).stdout
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("CONTROLLER"))
    assert lines[0] == f"vhostd v9  pid 42  {fake.path}"
    assert lines[2].startswith("core 0   poll       25.0 % busy   2 threads")
    heading = ["CONTROLLER", "BDEV", "QUEUES", "IOPS", "READ", "WRITE", "AVG", "P99", "DEPTH", "ERRORS"]
    return [dict(zip(heading, line.split(), strict=True)) for line in lines[start + 1:]]


def test_table(fake):
    lines = table(fake)
    assert lines[0] == {"CONTROLLER": "fast", "BDEV": "f", "QUEUES": "2", "IOPS": "1000",
                        "READ": "4.1", "WRITE": "0.0", "AVG": "50.0", "P99": "127.0", "DEPTH": "5",
                        "ERRORS": "3"}
    assert [line["CONTROLLER"] for line in lines] == ["fast", "slow", "idle"]


@pytest.mark.parametrize(("args", "order"), [
    (["--sort", "ctrlr"], ["fast", "idle", "slow"]),
    (["--sort", "ctrlr", "--reverse"], ["slow", "idle", "fast"]),
    (["--sort", "iops", "--reverse"], ["idle", "slow", "fast"]),
    (["--sort", "avg_us"], ["slow", "fast", "idle"]),                   # unknown comes last
    (["--sort", "avg-us", "--reverse"], ["fast", "slow", "idle"]),
    (["--sort", "errors"], ["fast", "slow", "idle"]),
    (["--filter", "S"], ["fast", "slow"]),
    (["--filter", "i"], ["idle"]),
    (["--filter", "nothing"], [])])
def test_sort_and_filter(fake, args, order):
    assert [line["CONTROLLER"] for line in table(fake, *args)] == order


def test_names_that_move_the_cursor(fake):
    fake.answers["vhost_get_controllers"] = [controller("\x1b[2J\n\u009b", "grüße" * 9)]
    text = vhostctl("-s", str(fake.path), "top", "--once", "--interval", "0.1").stdout
    line = text.splitlines()[-1]
    assert line.startswith("?[2J??" + " " * 15 + "grüßegrüßegrüßeg ")


def many_reactors(count: int):
    return lambda n, _: {"pid": 42, "reactors": [
        {"lcore": i, "busy": i * n, "idle": (1000 - i) * n, "mode": "poll", "lw_threads": []} for i in range(count)]}


@pytest.mark.parametrize("count", [1, 10, 11, 12, 22, 40])
def test_every_reactor_is_in_the_table(fake, count):
    fake.answers["framework_get_reactors"] = many_reactors(count)
    text = vhostctl("-s", str(fake.path), "top", "--once", "--interval", "0.1").stdout
    cores = [int(core) for core in re.findall(r"core (\d+) +poll", text)]
    assert cores == list(range(count))
    assert max(map(len, text.splitlines()[1:])) <= 110      # the table's width


# ---- a real daemon ----

@contextlib.contextmanager
def load(daemon, name: str, *options: str):
    path = next(c["socket"] for c in daemon.rpc("vhost_get_controllers") if c["ctrlr"] == name)
    with subprocess.Popen([str(VHOST_LOAD), "--socket", path, "--seconds", "600", *options],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: daemon.rpc("vhost_get_stats", ctrlr=name)[0]["requests"], "it runs")
            yield
        finally:
            process.kill()
            process.wait(DEADLINE)


def make_disk(daemon, name: str) -> None:
    daemon.rpc("bdev_malloc_create", name=f"m.{name}", num_blocks=2048, block_size=512)
    daemon.rpc("vhost_create_blk_controller", ctrlr=name, dev_name=f"m.{name}")


def test_under_load(shared):
    make_disk(shared, "busy")
    make_disk(shared, "idle")
    shared.rpc("bdev_enable_histogram", name="m.busy", enable=True)

    def as_fast_as_it_should():
        """A load that was held up makes up for it."""
        sample = json.loads(shared.ctl("top", "--once", "--json", "--interval", "1").stdout)
        busy, idle = sorted(sample["controllers"], key=lambda entry: entry["ctrlr"])
        return (sample, busy, idle) if 0 < busy["iops"] <= 550 else None

    with load(shared, "busy", "--rw", "randread", "--rate", "500"):
        sample, busy, idle = wait_until(as_fast_as_it_should, "500 requests a second")
    assert busy["queues"] == 1 and busy["errors"] == 0
    # 4 KiB each, with no byte of headers and statuses.
    assert busy["read_mb_per_s"] == pytest.approx(busy["iops"] * 4096 / 1e6, rel=0.02)
    assert busy["written_mb_per_s"] == 0
    assert busy["avg_us"] > 0 and busy["p99_us"] > 0
    assert idle["iops"] == 0 and idle["avg_us"] is None
    assert 0 < sample["reactors"][0]["busy"] <= 1
    assert "no method" not in shared.log_text() and "histogram is off" not in shared.log_text()


def test_stream_survives_the_daemon(vhostd):
    make_disk(vhostd, "c")
    with subprocess.Popen([str(VHOSTCTL), "-s", str(vhostd.socket), "top", "--json", "--interval",
                           "0.1"], stdout=subprocess.PIPE, text=True) as process:
        def next_one(condition):
            for line in process.stdout:
                if condition(json.loads(line)):
                    return
            raise AssertionError("it ended")

        next_one(lambda s: s.get("controllers") and s["controllers"][0]["iops"] == 0)
        vhostd.kill()
        next_one(lambda s: "does vhostd run?" in s.get("error", ""))
        vhostd.start()
        next_one(lambda s: s.get("controllers") and s["controllers"][0]["iops"] is None)
        next_one(lambda s: s.get("controllers") and s["controllers"][0]["iops"] == 0)
        process.terminate()
        process.wait(DEADLINE)


# ---- the terminal ----

@pytest.fixture
def top():
    terminals = []

    def start(path, *args: str, **size) -> Terminal:
        terminals.append(Terminal([str(VHOSTCTL), "-s", str(path), "top", "--interval", "0.2",
                                   *args], **size))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def names(lines: list[str]) -> list[str]:
    """Of the controllers on the screen, in order."""
    start = next((i for i, line in enumerate(lines) if line.startswith("CONTROLLER")), len(lines))
    return [line.split()[0] for line in lines[start + 1:-1] if line]


def test_screen(fake, top):
    screen = top(fake.path)
    screen.wait_for(lambda lines: names(lines) == ["fast", "slow", "idle"] and "1000" in lines[5],
                    "the table")
    assert screen.lines()[0] == f"vhostd v9  pid 42  {fake.path}"
    assert screen.lines()[-1].startswith("q quit")
    screen.type("q")
    assert screen.wait() == 0


def test_keys(fake, top):
    screen = top(fake.path)
    screen.wait_for("1000", "rates")
    for key, order in (("n", ["fast", "idle", "slow"]), ("n", ["slow", "idle", "fast"]),
                       ("i", ["fast", "slow", "idle"]), ("a", ["slow", "fast", "idle"])):
        screen.type(key)
        screen.wait_for(lambda lines, order=order: names(lines) == order, f"sorted by {key}")
    screen.type("\x1bOB")                               # down
    screen.wait_for(lambda lines: names(lines) == ["fast", "idle"], "scrolled")
    screen.type("\x1bOB\x1bOB\x1bOB\x1bOB")
    screen.wait_for(lambda lines: names(lines) == ["idle"], "not further than to the end")
    screen.type("\x1bOA\x1bOA\x1bOA")
    screen.wait_for(lambda lines: len(names(lines)) == 3, "scrolled back")
    screen.type("/sq\x7fl")
    screen.wait_for("filter: sl_", "typed")             # and not quit
    assert names(screen.lines()) == ["slow"]
    screen.type("\r")
    screen.wait_for("filter: sl  (", "the filter stays")
    screen.type("/" + "x" * 200 + "\x1b")
    screen.wait_for(lambda lines: len(names(lines)) == 3, "no filter")
    screen.type("\x03")
    assert screen.wait() == 0


def test_any_size(fake, top):
    screen = top(fake.path, rows=24, columns=120)
    screen.wait_for("ERRORS", "the table")
    for rows_, columns in ((10, 60), (6, 40), (5, 120), (24, 20), (1, 1), (2, 300), (60, 300),
                           (24, 120)):
        screen.set_size(rows_, columns)
        if rows_ < 6 or columns < 40:
            expected = "the terminal is too small"[:columns].rstrip()
            screen.wait_for(lambda lines, text=expected: lines[0] == text, f"{rows_} × {columns}")
        else:
            screen.wait_for(lambda lines: lines[-1].startswith("q quit") and
                            any(line.startswith("CONTROLLER") for line in lines),
                            f"{rows_} × {columns}")
            assert all(len(line) < columns for line in screen.lines())
    screen.type("q")
    assert screen.wait() == 0


def test_many_controllers_on_few_rows(fake, top):
    fake.answers["vhost_get_controllers"] = [controller(f"c{i:03}", "f") for i in range(200)]
    screen = top(fake.path, "--sort", "ctrlr", rows=12)
    screen.wait_for(lambda lines: names(lines) == [f"c{i:03}" for i in range(7)], "the first ones")
    screen.type("\x1bOB" * 100)
    screen.wait_for(lambda lines: names(lines) == [f"c{i:03}" for i in range(100, 107)], "later ones")
    screen.type("\x1bOB" * 150)
    screen.wait_for(lambda lines: names(lines) == ["c199"], "the last one")


@pytest.mark.parametrize(("columns", "cores", "rest"), [(80, 5, "59 more cores, up to 6.3 % busy"),
                                                       (100, 11, "53 more cores, up to 6.3 % busy"),
                                                       (550, 64, "core 63  poll        6.3 % busy   0 threads")])
def test_many_reactors_leave_room_for_controllers(fake, top, columns, cores, rest):
    fake.answers["framework_get_reactors"] = many_reactors(64)
    screen = top(fake.path, rows=24, columns=columns)
    screen.wait_for(lambda lines: names(lines) == ["fast", "slow", "idle"] and lines[7].endswith(rest), "the controllers")
    assert "\n".join(screen.lines()).count("core ") == cores


def test_daemon_goes_and_comes(vhostd, top):
    make_disk(vhostd, "c")
    screen = top(vhostd.socket)
    screen.wait_for(lambda lines: names(lines) == ["c"], "the table")
    vhostd.kill()
    screen.wait_for("does vhostd run?", "it is gone")
    assert names(screen.lines()) == ["c"]               # what was known last
    vhostd.start()
    screen.wait_for(lambda lines: "does vhostd run?" not in lines[-1]
                    and f"pid {vhostd.process.pid}" in lines[0], "it is back")
    screen.type("q")
    assert screen.wait() == 0


def test_no_daemon_yet(folder, idle_vhostd, top):
    screen = top(idle_vhostd.socket)
    screen.wait_for("waiting for the daemon", "nothing is there")
    idle_vhostd.start()
    screen.wait_for(f"pid {idle_vhostd.process.pid}", "it is there")


def test_daemon_that_hangs(fake, top):
    fake.silent = True
    screen = top(fake.path)
    screen.wait_for("Connection timed out", "it does not answer")
    screen.type("q")
    assert screen.wait() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "hangup"])
def test_the_end_of_it(fake, top, how):
    screen = top(fake.path)
    screen.wait_for("ERRORS", "the table")
    if how == "hangup":
        screen.process.send_signal(signal.SIGHUP)
        assert screen.wait() == -signal.SIGHUP
    else:
        screen.process.send_signal(how)
        assert screen.wait() == 0


def test_a_terminal_that_nobody_knows(fake, top):
    screen = top(fake.path, term="no-such-terminal")
    assert screen.wait() == FAILED
    assert "'no-such-terminal' is not known" in screen.process.stderr.read()


@pytest.mark.parametrize("args", [[], ["--interval", "0"], ["--interval", "nan"], ["--sort", "age"],
                                  ["--once", "now"], ["--once=yes"], ["--filter", "x" * 64]])
def test_usage(args):
    done = vhostctl("-s", "/nonexistent/rpc.sock", "top", *args, status=USAGE)
    assert done.stderr.startswith("vhostctl: top: ") and done.stdout == ""


def test_no_daemon():
    assert "does vhostd run?" in vhostctl("-s", "/nonexistent/rpc.sock", "top", "--once",
                                          status=FAILED).stderr
