# SPDX-License-Identifier: BSD-3-Clause
"""Metrics over HTTP and by RPC: that they are true, that Prometheus reads them, and what clients may do."""

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from harness import DEADLINE, ROOT, VHOSTD, Vhostd, wait_until
from nvme import NvmeDevice

VHOST_LOAD = Path(os.environ.get("VHOST_LOAD_BIN", VHOSTD.with_name("vhost_load")))
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
SAMPLE = re.compile(r'(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"(?:,|$)')
HOSTILE = 'a"b\\c{}, \u00fc'     # a name that a disk may have


@pytest.fixture
def daemon(idle_vhostd):
    idle_vhostd.start("--metrics", f"unix:{idle_vhostd.folder}/m.sock")
    return idle_vhostd


# ---- a client ----

def connect(daemon):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(f"{daemon.folder}/m.sock")   # waits while the backlog is full
    connection.settimeout(DEADLINE)
    return connection


def hear(connection) -> bytes:
    """All until the daemon closes, with which it may not wait until it has read everything."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def scrape(daemon) -> str:
    with connect(daemon) as connection:
        connection.sendall(REQUEST)
        head, _, body = hear(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head.split(b"\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    return body.decode()


def fresh(daemon) -> dict:
    """Of a collection that began after the call."""
    return parse(daemon.rpc("metrics_get", format="text"))


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def parse(text: str) -> dict[tuple, float]:
    """{(name, label, value, …): number}. Each sample is of the family above it, and there once."""
    samples, families, family = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in families
            families.add(family)
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
        else:
            name, labels, number = SAMPLE.match(line).groups()
            assert re.sub(r"_(bucket|sum|count)$", "", name) == family or name == family
            words = [word for pair in LABEL.findall(labels or "") for word in pair]
            assert "".join(f'{a}="{b}",' for a, b in zip(words[::2], words[1::2], strict=True)) == \
                (labels + "," if labels else "")
            key = (name, *map(unescape, words))
            assert key not in samples
            samples[key] = float(number)
    return samples


def disk(daemon, bdev="d", controller="c"):
    daemon.rpc("bdev_malloc_create", num_blocks=8192, block_size=512, name=bdev)
    daemon.rpc("vhost_create_blk_controller", ctrlr=controller, dev_name=bdev)


def load(daemon, controller="c", *options) -> None:
    subprocess.run([VHOST_LOAD, "--socket", daemon.folder / controller, "--seconds", "0.3",
                    "--ramp", "0", "--qd", "4", *options], check=True, timeout=DEADLINE,
                   stdout=subprocess.DEVNULL)


def promtool(text: str) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True,
                          text=True, timeout=DEADLINE)
    assert done.returncode == 0 and not done.stdout + done.stderr, done


# ---- what they say ----

def test_off_by_default(vhostd):
    with pytest.raises(FileNotFoundError):
        connect(vhostd)
    assert vhostd.rpc("metrics_get")[0]["samples"] == [
        {"labels": {"version": vhostd.rpc("spdk_get_version")["version"].split("v")[-1]},
         "value": 1}]


def test_text_and_json_are_the_same(daemon):
    disk(daemon)
    daemon.rpc("bdev_enable_histogram", name="d", enable=True)
    load(daemon)
    text = fresh(daemon)
    names = set()
    for metric in daemon.rpc("metrics_get"):
        assert metric["help"] and metric["type"] in ("counter", "gauge", "histogram")
        for sample in metric["samples"]:
            labels = [str(word) for pair in sample["labels"].items() for word in pair]
            end = "_count" if metric["type"] == "histogram" else ""
            names.add((metric["name"] + end, *labels))
            if end:
                assert sample["count"] == text[metric["name"] + "_count", *labels]
                assert [bucket["count"] for bucket in sample["buckets"]] == \
                    [text[metric["name"] + "_bucket", *labels, "le", f"{bucket['le']:.9g}"]
                     for bucket in sample["buckets"]]
    assert names == {key for key in text if not key[0].endswith(("_bucket", "_sum"))}


def test_wrong_format(daemon):
    assert daemon.error("metrics_get", format="xml").code == -32602
    assert daemon.error("metrics_get", format=1).code == -32602


def test_queues_and_connections(daemon):
    disk(daemon)
    before = fresh(daemon)
    assert before["vhostd_controller_connections_total", "controller", "c"] == 0
    assert before["vhostd_controller_connected", "controller", "c"] == 0
    load(daemon)
    load(daemon, "c", "--rw", "randwrite")
    wait_until(lambda: fresh(daemon)["vhostd_controller_connected", "controller", "c"] == 0,
               "the front-end is gone")
    after = fresh(daemon)
    assert after["vhostd_controller_connections_total", "controller", "c"] == 2
    stats, = daemon.rpc("vhost_get_stats", per_queue=True)
    assert stats["connections"] == 2 and stats["connected"] is False
    for member, name in {"requests": "requests_total", "bytes_read": "read_bytes_total",
                         "bytes_written": "written_bytes_total", "errors": "errors_total",
                         "sleeps": "sleeps_total", "kicks": "kicks_total", "calls": "calls_total",
                         "breaks": "breaks_total", "inflight": "in_flight"}.items():
        assert after[f"vhostd_queue_{name}", "controller", "c", "queue", "0"] == \
            stats["queues"][0][member]
    assert stats["requests"] > 0
    assert 0 < stats["kicks"] <= stats["sleeps"]


def test_block_devices(daemon):
    disk(daemon)
    daemon.rpc("bdev_enable_histogram", name="d", enable=True)
    load(daemon)
    samples = fresh(daemon)
    stat = daemon.rpc("bdev_get_iostat", name="d")["bdevs"][0]
    read = ("bdev", "d", "operation", "read")
    assert samples["vhostd_bdev_operations_total", *read] == stat["num_read_ops"] > 0
    assert samples["vhostd_bdev_operation_bytes_total", *read] == stat["bytes_read"]
    assert samples["vhostd_bdev_latency_seconds_count", "bdev", "d"] == stat["num_read_ops"]
    assert samples["vhostd_bdev_latency_seconds_bucket", "bdev", "d", "le", "+Inf"] == \
        stat["num_read_ops"]
    seconds = samples["vhostd_bdev_operation_seconds_total", *read]
    assert samples["vhostd_bdev_latency_seconds_sum", "bdev", "d"] == \
        pytest.approx(seconds, rel=0.02)
    assert samples["vhostd_bdev_size_bytes", "bdev", "d"] == 8192 * 512
    assert samples["vhostd_bdev_open", "bdev", "d"] == 1
    assert not any("limit" in key[0] for key in samples)
    daemon.rpc("bdev_set_qos_limit", name="d", rw_ios_per_sec=5000, w_mbytes_per_sec=2)
    samples = fresh(daemon)
    assert {key[0]: value for key, value in samples.items() if "limit" in key[0]} == {
        "vhostd_bdev_limit_operations_per_second": 5000,
        "vhostd_bdev_limit_written_bytes_per_second": 2 << 20}
    daemon.rpc("bdev_enable_histogram", name="d", enable=False)
    assert not any("latency" in key[0] for key in fresh(daemon))


def test_reactors_and_threads(daemon):
    disk(daemon)
    before = fresh(daemon)
    load(daemon)
    after = fresh(daemon)
    busy = ("vhostd_reactor_busy_seconds_total", "core", "0")
    assert after[busy] > before[busy]
    threads = {key[2]: value for key, value in after.items()
               if key[0] == "vhostd_thread_busy_seconds_total"}
    assert {"app", "vhost.c"} <= set(threads)
    assert 0 < threads["vhost.c"] <= after[busy]
    assert after["vhostd_reactor_threads", "core", "0"] == len(threads)


def test_restarts(daemon):
    key = ("process_start_time_seconds",)
    first = fresh(daemon)[key]
    assert abs(first - time.time()) < 2 * DEADLINE
    assert fresh(daemon)[key] == first
    daemon.kill()
    time.sleep(0.02)    # the kernel's clock has 100 ticks a second
    daemon.start("--metrics", f"unix:{daemon.folder}/m.sock")   # over the file of the one before
    assert parse(scrape(daemon))[key] > first


def test_nvme(daemon, folder):
    device = NvmeDevice(folder)
    device.start()
    daemon.rpc("bdev_nvme_attach_controller", name="n", trtype="VFIOUSER",
               traddr=str(device.socket))
    samples = fresh(daemon)
    assert samples["vhostd_nvme_up", "controller", "n"] == 1
    resets = samples["vhostd_nvme_resets_total", "controller", "n"]
    daemon.rpc("bdev_nvme_reset_controller", name="n")
    assert fresh(daemon)["vhostd_nvme_resets_total", "controller", "n"] == resets + 1
    daemon.rpc("bdev_nvme_disable_controller", name="n")
    assert fresh(daemon)["vhostd_nvme_up", "controller", "n"] == 0
    daemon.rpc("bdev_nvme_detach_controller", name="n")
    assert not any("nvme" in key[0] for key in fresh(daemon))
    device.stop()


# ---- who reads them ----

def test_promtool(daemon, folder):
    device = NvmeDevice(folder)
    device.start()
    daemon.rpc("bdev_nvme_attach_controller", name="n", trtype="VFIOUSER",
               traddr=str(device.socket))
    promtool(scrape(daemon))
    disk(daemon, HOSTILE, HOSTILE)
    daemon.rpc("bdev_enable_histogram", name=HOSTILE, enable=True)
    daemon.rpc("bdev_set_qos_limit", name=HOSTILE, rw_ios_per_sec=100000, rw_mbytes_per_sec=900,
               r_mbytes_per_sec=800, w_mbytes_per_sec=700)
    load(daemon, HOSTILE)
    time.sleep(0.2)     # a scrape may be 100 ms old
    text = scrape(daemon)
    promtool(text)
    samples = parse(text)
    assert samples["vhostd_bdev_size_bytes", "bdev", HOSTILE] == 8192 * 512
    assert samples["vhostd_queue_requests_total", "controller", HOSTILE, "queue", "0"] > 0
    # All that there is has a sample now.
    assert {metric["name"] for metric in daemon.rpc("metrics_get") if not metric["samples"]} == set()
    daemon.rpc("bdev_nvme_detach_controller", name="n")
    device.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """A server of its own that scrapes one target every second."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"127.0.0.1:{free_port()}"
        self.log = folder / "prometheus.log"
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({"scrape_configs": [
            {"job_name": "vhostd", "scrape_interval": "1s", "scrape_timeout": "1s",
             "static_configs": [{"targets": [target]}]}]}))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb",
                 f"--web.listen-address={self.url}"], cwd=folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **params):
        url = f"http://{self.url}/api/v1/{path}?{urllib.parse.urlencode(params)}"
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://{self.url}/-/ready", timeout=DEADLINE):
                return True
        return False

    def query(self, expression: str) -> list:
        try:
            return self.get("query", query=expression)["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read()}") from error


def expressions() -> list[str]:
    """Of the dashboard, as Grafana would send them."""
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(found) > 15
    found = [text.replace("$__rate_interval", "1m") for text in found]
    return [re.sub(r"\$(instance|job|controller|bdev)", ".*", text) for text in found]


def test_prometheus(idle_vhostd, folder):
    address = f"127.0.0.1:{free_port()}"
    idle_vhostd.start("--metrics", address)
    disk(idle_vhostd, HOSTILE)
    with Prometheus(folder, address) as prometheus:
        wait_until(prometheus.is_ready, "Prometheus answers")
        wait_until(lambda: prometheus.query("up == 1"), "Prometheus scrapes")
        result, = prometheus.query("vhostd_bdev_size_bytes")
        assert result["metric"]["bdev"] == HOSTILE and result["value"][1] == str(8192 * 512)
        known = {key[0] for key in fresh(idle_vhostd)}
        assert known <= set(prometheus.get("label/__name__/values"))
        for text in expressions():
            prometheus.query(text)
        assert "$" not in "".join(expressions())
        assert prometheus.query(expressions()[1])[0]["value"][1] == "0"     # nobody is connected


def test_dashboard(daemon):
    """Each metric in an expression is there, and no panel is on top of another."""
    known = set()
    for metric in daemon.rpc("metrics_get"):
        known |= {metric["name"] + end for end in
                  (("_bucket", "_sum", "_count") if metric["type"] == "histogram" else ("",))}
    text = (ROOT / "docs/grafana.json").read_text()
    used = set(re.findall(r"\b(?:vhostd|process)_\w+", text))
    assert used <= known, used - known
    assert len(used) > 20
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [(x, y) for panel in panels for grid in [panel["gridPos"]]
             for x in range(grid["x"], grid["x"] + grid["w"])
             for y in range(grid["y"], grid["y"] + grid["h"])]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def test_documentation(daemon):
    """docs/monitoring.md has the table of all, word for word, and its rules use nothing else."""
    text = (ROOT / "docs/monitoring.md").read_text()
    metrics = {metric["name"]: metric["help"] for metric in daemon.rpc("metrics_get")}
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.M))
    assert {name: words.removeprefix("Histogram. ") for name, words in rows.items()} == metrics
    used = {re.sub("_bucket$", "", name) for name in re.findall(r"\bvhostd_\w+", text)}
    assert used <= set(metrics)


# ---- addresses ----

@pytest.mark.parametrize("address", ["", "/run/m.sock", "unix:", "0.0.0.0:9815", "127.0.0.1:0",
                                     "127.0.0.1:70000", "localhost:9815", "[::1]:9815", "9815"])
def test_wrong_address(idle_vhostd, address):
    process = idle_vhostd.spawn("--metrics", address)
    assert process.wait(DEADLINE) == 2
    assert f"vhostd: --metrics: '{address}' is not unix:PATH or 127.0.0.1:PORT" in \
        idle_vhostd.log_text()


def test_address_in_use(daemon, tmp_path):
    other = Vhostd(tmp_path)
    process = other.spawn("--metrics", f"unix:{daemon.folder}/m.sock")
    assert process.wait(DEADLINE) == 1
    assert f"metrics socket {daemon.folder}/m.sock: another process listens on it" in \
        other.log_text()
    assert scrape(daemon)


# ---- hostile clients, and all at once ----

def test_hostile_clients(daemon):
    """Half requests, garbage and slow readers hold up neither others nor the daemon."""
    disk(daemon)
    half = [connect(daemon) for _ in range(50)]
    for number, connection in enumerate(half):
        connection.sendall(REQUEST[:number % len(REQUEST)])
    readers = [connect(daemon) for _ in range(10)]
    for connection in readers:
        connection.sendall(REQUEST)
    garbage = [os.urandom(3000), b"\0" * 3000, b"GET " + b"/" * 20000, REQUEST[:-2] + b"\xff" * 9000,
               b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 9000]
    for data in garbage:
        with connect(daemon) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            hear(connection)
    with connect(daemon) as connection:
        connection.sendall(REQUEST * 20)
        assert hear(connection).count(b"HTTP/1.1 200 ") == 1
    assert scrape(daemon)
    daemon.rpc("spdk_get_version")
    for connection in readers:
        assert hear(connection).startswith(b"HTTP/1.1 200 ")
    for connection in half + readers:
        connection.close()


class Crowd:
    """Threads that each do something again and again until the end; what goes wrong is raised then."""

    def __init__(self, *functions) -> None:
        self.done = threading.Event()
        self.errors = []
        self.rounds = [0] * len(functions)
        self.threads = [threading.Thread(target=self.run, args=pair)
                        for pair in enumerate(functions)]

    def run(self, number, function) -> None:
        try:
            while not self.done.is_set():
                function()
                self.rounds[number] += 1
        except BaseException as error:  # for the main thread
            self.errors.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join(2 * DEADLINE)
        if self.errors:
            raise self.errors[0]


def test_scrapes_while_controllers_come_and_go(daemon):
    """Counters of a disk that stays never go back, whatever happens beside it."""
    disk(daemon)
    daemon.rpc("bdev_enable_histogram", name="d", enable=True)
    last = {}

    def look():
        samples = parse(scrape(daemon))
        now = {key: value for key, value in samples.items()
               if key[0].endswith(("_total", "_bucket", "_count")) and
               (key[1:3] == ("controller", "c") or key[1:3] == ("bdev", "d"))}
        assert now
        for key, value in now.items():
            assert value >= last.get(key, 0), key
        last.update(now)

    def look_again():
        assert parse(daemon.rpc("metrics_get", format="text"))

    def come_and_go():
        disk(daemon, "e", "f")
        daemon.rpc("bdev_enable_histogram", name="e", enable=True)
        load(daemon, "f", "--seconds", "0.05")
        daemon.rpc("vhost_delete_controller", ctrlr="f")
        daemon.rpc("bdev_malloc_delete", name="e")

    def open_and_close():
        with connect(daemon) as connection:
            connection.sendall(REQUEST[:20])

    crowd = Crowd(look, look_again, come_and_go, open_and_close,
                  lambda: load(daemon, "c", "--seconds", "0.2"))
    with crowd:
        wait_until(lambda: crowd.errors or min(crowd.rounds) >= 10, "ten rounds of each")
    assert last["vhostd_queue_requests_total", "controller", "c", "queue", "0"] > 0


def test_hundred_connections(daemon):
    disk(daemon)
    connections = [connect(daemon) for _ in range(100)]
    for connection in connections:
        connection.sendall(REQUEST)
    for connection in connections:
        assert hear(connection).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_stop_with_clients(daemon):
    """SIGTERM while clients are connected and ask."""
    connections = [connect(daemon) for _ in range(20)]
    for connection in connections[:10]:
        connection.sendall(REQUEST)
    daemon.stop()
    for connection in connections:
        hear(connection)
        connection.close()
    assert not (daemon.folder / "m.sock").exists()
