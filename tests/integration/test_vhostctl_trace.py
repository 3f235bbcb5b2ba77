# SPDX-License-Identifier: BSD-3-Clause
"""vhostctl trace: slow requests of a real daemon, and of one that says what a test wants."""

import json
import re
import subprocess

import pytest
from fake_daemon import FakeDaemon
from harness import DEADLINE, VHOSTCTL, vhostctl, wait_until
from test_vhostctl import FAILED, USAGE, rows


class TraceDaemon(FakeDaemon):
    """Answers each call with the next of `answers`, and from then on with the last one."""

    def __init__(self, path) -> None:
        self.answers: list = []
        self.calls: list = []
        super().__init__(path, self.next_answer)

    def next_answer(self, text: bytes) -> bytes:
        self.calls.append(json.loads(text))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        key = "error" if "code" in answer else "result"
        return json.dumps({"jsonrpc": "2.0", "id": 1, key: answer}).encode()


@pytest.fixture
def fake(folder):
    daemon = TraceDaemon(folder / "fake.sock")
    yield daemon
    daemon.stop()


def request(number: int, us: int = 20000, thread: str = "vhost.c", **more) -> dict:
    return {"time": f"2026-01-01T00:00:{number:02}.000000Z", "thread": thread, "number": number,
            "queue": 1, "type": "read", "tag": "0x7", "lba": 8 * number, "blocks": 8, "queue_us": 5,
            "device_us": us - 7, "completion_us": 2, "total_us": us, "status": "OK"} | more


def answer(*requests: dict, threshold: int = 10000) -> dict:
    return {"ctrlr": "c", "threshold_us": threshold, "recorded": len(requests),
            "requests": list(requests)}


@pytest.fixture
def follow(fake):
    """Starts the command; returns the lines that it printed so far, and what it said beside them."""
    started = []

    def start(*args: str):
        out, errors = fake.path.with_name("out"), fake.path.with_name("errors")
        with out.open("w") as stdout, errors.open("w") as stderr:
            started.append(subprocess.Popen(  # pylint: disable=consider-using-with
                [str(VHOSTCTL), "-s", str(fake.path), "trace", "c", "--follow", *args],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr))
        return lambda: out.read_text().splitlines(), errors.read_text

    yield start
    for process in started:
        process.terminate()
        process.wait(DEADLINE)


# ---- once ----

def test_table(fake):
    fake.answers = [answer(
        request(1), request(2, 30000, type="READ(10)", opcode=0x28, target=3, lun=1, status="GOOD"),
        request(3, 90000, target=3, lun=None))]
    done = vhostctl("-s", str(fake.path), "trace", "c")
    assert done.stderr == ""
    table = rows(done.stdout)
    assert [row["lba"] for row in table] == ["8", "16", "24"]
    assert table[0] == {"time": "2026-01-01T00:00:01.000000Z", "queue": "1", "type": "read",
                        "lun": "-", "lba": "8", "blocks": "8", "total_us": "20000",
                        "queue_us": "5", "device_us": "19993", "completion_us": "2", "status": "OK"}
    assert (table[1]["type"], table[1]["lun"], table[1]["status"]) == ("READ(10)", "3:1", "GOOD")
    assert table[2]["lun"] == "-"
    assert fake.calls[0]["params"]["ctrlr"] == "c"


def test_count_and_filter(fake):
    fake.answers = [answer(*(request(i, 10000 + 1000 * i) for i in range(40)))]

    def numbers(*args: str) -> list[int]:
        done = vhostctl("-s", str(fake.path), "trace", "c", *args)
        return [int(row["lba"]) // 8 for row in rows(done.stdout)]

    assert numbers() == list(range(20, 40))
    assert numbers("--count", "3") == [37, 38, 39]
    assert numbers("--slower-than", "47000") == [37, 38, 39]
    assert numbers("--slower-than=30000", "--count", "40") == list(range(20, 40))
    done = vhostctl("-s", str(fake.path), "--json", "trace", "c", "--slower-than", "48000")
    assert json.loads(done.stdout) == answer(request(38, 48000), request(39, 49000)) | {
        "recorded": 40}


def test_hints(fake):
    """What to do where nothing is seen."""
    fake.answers = [answer()]
    done = vhostctl("-s", str(fake.path), "trace", "c")
    assert done.stdout == "" and "no request took 10000 us or longer" in done.stderr
    assert "vhost_controller_set_slow_threshold --ctrlr 'c' --threshold_us 1000" in done.stderr
    done = vhostctl("-s", str(fake.path), "trace", "c", "--slower-than", "500")
    assert "--threshold_us 500" in done.stderr
    done = vhostctl("-s", str(fake.path), "trace", "c", "--slower-than", "50000")
    assert done.stderr == "c: no request took 50000 us or longer\n"
    assert json.loads(vhostctl("-s", str(fake.path), "--json", "trace", "c").stdout) == answer()
    fake.answers = [answer(request(1))]
    done = vhostctl("-s", str(fake.path), "trace", "c", "--slower-than", "500")
    assert len(done.stdout.splitlines()) == 2 and "--threshold_us 500" in done.stderr
    fake.answers = [answer(threshold=0)]
    done = vhostctl("-s", str(fake.path), "trace", "c")
    assert "set_slow_threshold" not in done.stderr


@pytest.mark.parametrize("args, word", [
    ([], "name of a controller"), (["c", "d"], "'d'"), (["c", "--count", "0"], "--count"),
    (["c", "--slower-than", "-1"], "--slower-than"), (["c", "--slower-than"], "no value"),
    (["c", "--more"], "--more"),
])
def test_bad_arguments(folder, args, word):
    assert word in vhostctl("-s", str(folder / "none"), "trace", *args, status=USAGE).stderr


def test_daemons_of_other_ages(fake):
    fake.answers = [{"code": -32601, "message": "Method not found"}]
    done = vhostctl("-s", str(fake.path), "trace", "c", status=FAILED)
    assert "is the daemon older than vhostctl" in done.stderr
    fake.answers = [answer({"more": [1], "time": 5, "lun": {}}) | {"more": 1}]
    done = vhostctl("-s", str(fake.path), "trace", "c")
    assert rows(done.stdout)[0]["status"] == "-"
    for strange in ([], {}, {"requests": 5}, {"requests": [1, None, []]}, {"ctrlr": 1}):
        fake.answers = [strange]
        vhostctl("-s", str(fake.path), "trace", "c")
        vhostctl("-s", str(fake.path), "--json", "trace", "c")


# ---- as they come ----

def test_follow(fake, follow):
    other = [request(i, thread="vhost.c.1") for i in range(7, 9)]
    fake.answers = [answer(request(1), request(2)), answer(request(1), request(2)),
                    answer(request(2), request(3, status="EIO"), *other)]
    lines, errors = follow("--count", "1")
    wait_until(lambda: len(lines()) >= 5, "the new ones")
    wait_until(lambda: len(fake.calls) >= 5, "more of the same")
    table = rows("\n".join(lines()))
    assert [row["lba"] for row in table] == ["16", "24", "56", "64"]
    assert table[1]["status"] == "EIO"
    assert errors() == ""


def test_follow_says_what_it_missed(fake, follow):
    fake.answers = [answer(request(1)), answer(request(9), request(10))]
    lines, errors = follow("--json")
    wait_until(lambda: len(lines()) >= 3, "the new ones")
    assert [json.loads(line)["number"] for line in lines()] == [1, 9, 10]
    wait_until(errors, "a word about the others")
    assert errors().startswith("7 more came and went")


def test_follow_of_what_is_made_anew(fake, follow):
    """Its numbers begin again; it is the same thread by name."""
    fake.answers = [answer(request(4)), {"code": -19, "message": "vhost controller c: gone"},
                    {"code": -19, "message": "vhost controller c: gone"}, answer(),
                    answer(request(0) | {"time": "2026-01-01T00:01:00.000000Z"})]
    lines, errors = follow("--json")
    wait_until(lambda: len(lines()) >= 2, "the new one")
    assert [json.loads(line)["number"] for line in lines()] == [4, 0]
    assert errors().count("vhost controller c: gone") == 1


# ---- a real daemon ----

def test_real_daemon(shared):
    shared.rpc("bdev_malloc_create", name="m", num_blocks=65536, block_size=512)
    shared.rpc("bdev_delay_create", name="d", base_bdev_name="m", avg_read_latency=20000,
               p99_read_latency=20000, avg_write_latency=0, p99_write_latency=0)
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="d")
    assert "no request took" in shared.ctl("trace", "c").stderr
    shared.ctl("bench", "c", "--seconds", "0.5")
    table = rows(shared.ctl("trace", "c", "--count", "2").stdout)
    assert len(table) == 2
    assert all(int(row["device_us"]) >= 19999 for row in table)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row["time"])
               for row in table)
    done = shared.ctl("trace", "none", status=FAILED)
    assert "controller none" in done.stderr


def test_threshold_is_kept(vhostd):
    vhostd.rpc("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
    for name in "ab":
        vhostd.rpc("vhost_create_blk_controller", ctrlr=name, dev_name="m")
        vhostd.ctl("vhost_controller_set_slow_threshold", "--ctrlr", name, "--threshold-us", "70")
    vhostd.rpc("vhost_controller_set_slow_threshold", ctrlr="b", threshold_us=10000)
    assert "set_slow_threshold" in vhostd.ctl("save-config").stdout
    vhostd.kill()
    vhostd.start()
    assert [vhostd.rpc("vhost_get_slow_requests", ctrlr=name)["threshold_us"]
            for name in "ab"] == [70, 10000]
    assert vhostd.ctl("save-config").stdout.count("set_slow_threshold") == 1
