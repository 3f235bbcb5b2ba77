# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks: that they run, and that their figures are what they say."""

import json
import os
import subprocess
import sys

import pytest
from harness import DEADLINE, ROOT, VHOSTD, wait_until

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))
import path  # noqa: E402
import report  # noqa: E402
from processes import NotAvailable  # noqa: E402
from results import Summary  # noqa: E402
from targets import compare, compare_turns, of, verdict  # noqa: E402
from turns import in_turns  # noqa: E402


BIN = os.path.dirname(VHOSTD)


def run_json(program, *options):
    """What a run prints."""
    result = subprocess.run([os.path.join(BIN, program), "--json", *options], capture_output=True,
                            text=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def path_bench(*options):
    return run_json("path_bench", *options)


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("device", ["null", "malloc", "nvme"])
def test_path_bench_finds_every_request_in_each_iteration(ring, device):
    cases = path_bench("--ios", "640", "--ring", ring, "--device", device, "--qd", "32",
                       "--inflight", "off", "--idle", "2")
    assert [(c["rw"], c["event_idx"]) for c in cases] == [
        ("read", False), ("write", False), ("read", True), ("write", True)]
    for case in cases:
        # One iteration to submit to an NVMe device, and one to find it done.
        assert case["ios"] == 640
        assert case["iterations"] == (2 if device == "nvme" else 1) * 640 / 32
        assert case["cycles_per_io"] > 0 and case["iops"] > 0


@pytest.mark.parametrize("device", ["null", "nvme"])
def test_path_bench_on_two_reactors(device):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU")
    case, = path_bench("--ios", "640", "--ring", "split", "--qd", "32", "--rw", "read",
                       "--event-idx", "off", "--inflight", "off", "--queues", "4",
                       "--cpus", f"{cpus[0]},{cpus[1]}", "--device", device)
    assert case["reactors"] == 2 and case["ios"] >= 2 * 640


def check_nvme_perf(cases, ios):
    assert [case["qd"] for case in cases] == [1, 32, 128]
    for case in cases:
        assert case["ios"] >= ios and case["copied"] == 0
        assert case["cycles_per_io"] > 0 and case["iops"] > 0 and case["avg_us"] > 0


@pytest.mark.parametrize("rw", ["read", "write"])
def test_nvme_perf_with_its_own_device(rw):
    cases = run_json("nvme_perf", "--ios", "1280", "--rw", rw)
    check_nvme_perf(cases, 1280)
    assert [case["name"] for case in cases] == [f"nvme-alone-qd{n}-{rw}" for n in (1, 32, 128)]


@pytest.mark.parametrize("options", [[], ["--interrupts"]])
def test_nvme_perf_with_the_software_device(folder, options):
    socket = folder / "device"
    device = subprocess.Popen([os.path.join(BIN, "nvme_device"), "--socket", socket, "--control",
                               folder / "control", "-c", "ns add 1 null 16384 4096"])
    try:
        wait_until(lambda: device.poll() is not None or socket.exists(), "a socket")
        check_nvme_perf(run_json("nvme_perf", "--socket", socket, "--seconds", "0.05", *options),
                        1)
    finally:
        device.terminate()
    assert device.wait(DEADLINE) == 0  # it has seen no violation


def test_nvme_perf_says_what_is_wrong(folder):
    result = subprocess.run([os.path.join(BIN, "nvme_perf"), "--socket", folder / "nothing"],
                            capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 1
    assert "there is no such socket" in result.stderr


@pytest.fixture
def scsi_disk(vhostd):
    """A SCSI controller, its LUN 0 of target 0 on 1 MiB of memory."""
    vhostd.rpc("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    vhostd.rpc("vhost_create_scsi_controller", ctrlr="scsi")
    vhostd.rpc("vhost_scsi_controller_add_target", ctrlr="scsi", scsi_target_num=0, bdev_name="m")
    return vhostd


def load_scsi(daemon, *options, status=0):
    socket = daemon.rpc("vhost_get_controllers")[0]["socket"]
    result = subprocess.run([os.path.join(BIN, "vhost_load"), "--json", "--socket", socket,
                             "--scsi", "--seconds", "0.2", "--ramp", "0.05", *options],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    return json.loads(result.stdout) if status == 0 else result.stderr


@pytest.mark.parametrize("options", [[], ["--packed"], ["--event-idx", "--queues", "2"],
                                     ["--indirect", "off", "--poll"]])
@pytest.mark.parametrize("rw", ["randread", "write"])
def test_load_of_a_scsi_disk_is_what_the_disk_does(scsi_disk, rw, options):
    report = load_scsi(scsi_disk, "--rw", rw, "--qd", "4", "--bs", "8192", *options)
    assert report["errors"] == 0 and report["ios"] > 0
    stats = scsi_disk.rpc("bdev_get_iostat", name="m")["bdevs"][0]
    kind, other = ("read", "write") if rw == "randread" else ("write", "read")
    moved = stats["bytes_read" if rw == "randread" else "bytes_written"]
    assert stats[f"num_{kind}_ops"] == report["ios_total"]
    assert moved == 8192 * report["ios_total"]
    assert stats[f"num_{other}_ops"] == 0


def test_load_of_a_scsi_disk_says_what_is_wrong(scsi_disk):
    assert "usage" in load_scsi(scsi_disk, "--rw", "randrw", status=2)
    assert "usage" in load_scsi(scsi_disk, "--verify", status=2)
    scsi_disk.rpc("vhost_scsi_controller_remove_target", ctrlr="scsi", scsi_target_num=0)
    assert "Input/output error" in load_scsi(scsi_disk, status=1)


def test_run_fails_without_programs(folder):
    result = subprocess.run([sys.executable, "-B", BENCH / "run.py", "--bin", folder],
                            capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 1
    assert "vhostd" in result.stderr and "not built" in result.stderr


def test_a_peer_that_does_nothing_is_no_division_by_zero():
    summary = Summary([{"case": "a", "server": "vhostd", "iops": 10, "avg_us": 0},
                       {"case": "a", "server": "qsd", "iops": 0, "avg_us": 0}])
    target = compare("to a peer", "a", "a", servers=("vhostd", "qsd"), at_least=2)
    assert target.value(summary) is None
    assert verdict(target, None) == "not available"
    assert len(list(report.measured_rows(summary))) == 2


def test_verdicts_are_about_medians():
    samples = [{"case": "a", "server": "vhostd", "value": v} for v in (90, 5, 7)]
    value = of("a", "ms", "a").value(Summary(samples))
    assert value == 7
    assert verdict(of("a", "ms", "a", at_most=7), value) == "met"
    assert verdict(of("a", "ms", "a", at_most=6.9), value) == "missed"
    assert verdict(of("a", "ms", "a", at_least=7.1), value) == "missed"
    assert verdict(of("a", "ms", "a"), value) == ""


def test_medians_are_those_of_near_cpus():
    samples = [{"case": "a", "server": "vhostd", "value": v, "round_trip_ns": ns}
               for v, ns in ((1, 90), (3, 90), (50, 400), (60, 400), (70, 400))]
    assert of("a", "ms", "a").value(Summary(samples)) == 2
    assert of("a", "ms", "a").value(Summary(samples[2:])) == 60


def test_medians_are_those_of_quiet_runs():
    samples = [{"case": "c", "server": "vhostd", "iops": iops, "round_trip_ns": trip,
                "others_percent": others, "turn": turn}
               for turn, (iops, trip, others) in enumerate(
                   ((1, 90, 60), (10, 90, 2), (20, 95, 4), (90, 400, 1)))]
    summary = Summary(samples)
    assert summary.get("c", "iops") == 15
    assert summary.in_turns(("c", "vhostd"), ("c", "vhostd"), lambda one, _: one["iops"]) == 15
    # Where there is no such run, those of near CPUs.
    assert Summary(samples[:1] + samples[3:]).get("c", "iops") == 1


def test_ratios_are_those_within_turns():
    def ratio(*pairs):
        samples = [{"case": case, "server": "vhostd", "iops": iops, "turn": turn}
                   for turn, pair in enumerate(pairs)
                   for case, iops in zip("ab", pair) if iops is not None]
        return compare_turns("a to b", "a", "b").value(Summary(samples))

    # Medians of all would be 30 to 20.
    assert ratio((10, 10), (30, 10), (40, 20), (None, 20), (100, 50)) == 2
    assert ratio((10, None), (None, 10)) is None
    assert ratio((10, 0), (10, 5)) is None


class MovedBench:
    """One that measures the given round trips, and then always the last of them."""

    quick = False

    def __init__(self, trips):
        self.trips = trips
        self.turn = self.moved = 0
        self.added = []

    def measure_round_trip(self):
        return self.trips.pop(0) if len(self.trips) > 1 else self.trips[0]

    def add(self, **sample):
        self.added.append((sample["turn"], sample["case"]))


def test_turns_alternate_and_are_done_again_when_cpus_are_moved():
    runs = [lambda: [{"case": "a"}], lambda: [{"case": "b"}]]
    # The second turn: near before, far after its first run.
    bench = MovedBench([90, 91, 100, 90, 400, 90])
    in_turns(bench, runs, 3)
    assert bench.added == [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "b"), (2, "a")]
    assert bench.moved == 1


def test_turns_have_an_end():
    bench = MovedBench([90, 400] * 6 + [90])
    with pytest.raises(NotAvailable, match="each of 6 turns"):
        in_turns(bench, [lambda: [{"case": "a"}]], 3)
    assert bench.moved == 6 and not bench.added


def test_the_document_gets_what_is_between_its_marks(folder):
    file = folder / "doc.md"
    file.write_text("1\n<!-- begin x -->\nold\n<!-- end x -->\n2\n")
    for text in ("new \\1", "newer"):
        report.fill_document(file, {"x": text})
        assert file.read_text() == f"1\n<!-- begin x -->\n{text}\n<!-- end x -->\n2\n"
    with pytest.raises(ValueError, match="0 marks"):
        report.fill_document(file, {"y": ""})


class PartialBench:
    unavailable = {}
    moved = 0

    def __init__(self, samples):
        self.samples = samples

    def others_percent(self):
        return 0


def test_a_run_of_some_cases_leaves_the_figures_of_others(folder):
    def write(samples, partial):
        old = report.read_document(file) if partial else None
        report.fill_document(file, report.fragments(PartialBench(samples), Summary(samples),
                                                    "make bench", old))
        return file.read_text()

    def load(case, iops):
        return {"case": case, "server": "vhostd", "iops": iops * 1e6, "avg_us": 1}

    file = folder / "doc.md"
    file.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in
                            ("machine", "targets", "measured", "stages", "functions")))
    stages = {"case": "path null-split-qd32-read", "server": "vhostd", "value": 555,
              "stages": dict.fromkeys(path.ORDER, 1), "functions": {
                  "lib/a.c:b": {"stage": "pop", "instructions": 7}}}
    # Two figures of one title.
    scsi = [load("controllers split randread qd32 scsi", 7),
            {"case": "path scsi-null-split-qd32-read", "server": "vhostd", "value": 670,
             "stages": dict.fromkeys(path.ORDER, 1), "functions": {}}]
    write([load("null split randread qd32", 3), load("nvme alone qd32", 5), stages, *scsi], False)
    for _ in range(2):
        text = write([load("nvme alone qd32", 6)], True)
        assert "| split QD 32 read | 3.00 M IOPS |" in text
        assert "| driver alone, QD 32 | 6.00 M IOPS |" in text and "5.00 M" not in text
        assert text.count("| nvme alone qd32 | vhostd |") == 1
        assert text.count("| null split randread qd32 | vhostd |") == 1
        assert text.count("| null-split-qd32-read | 555.0 |") == 1
        assert text.count("| `b` | `lib/a.c` | pop | 7 |") == 1
        assert text.count("| QD 32, read | 670.0 instructions |") == 1
        assert text.count("| QD 32, read | 7.00 M IOPS |") == 1
        assert text.count("- Measured later: ") == 1 and text.count("- Date: ") == 1
        assert text.count("### Null disk, poll mode") == 1


CALLGRIND = """\
desc: Trigger: Client Request: some-case
positions: line
events: Ir
fl=(1) {root}/lib/virtio/virtq.c
fn=(1) compiled
{pop} 5
fi=(2) {root}/lib/bdev/bdev_null.c
{submit} 3
fe=(1)
+0 2
cfi=(3) /usr/x.c
cfn=(2) memcpy
calls=1 7
* 100
fl=(3)
fn=(2)
7 11
"""


def line_of(file, text):
    return next(i for i, line in enumerate((ROOT / file).read_text().splitlines(), 1)
                if text in line)


def test_instructions_belong_to_the_source_that_they_come_from(folder):
    file = folder / "dump"
    submit = line_of("lib/bdev/bdev_null.c", "bdev_complete(rq, 0)")
    pop = line_of("lib/virtio/virtq.c", "return vq->ops.pop(")
    file.write_text(CALLGRIND.format(root=ROOT, submit=submit, pop=pop))
    dump = path.Dump(str(file))
    assert dump.case == "some-case"
    counted = path.by_function(dump, path.Sources())
    # "+0" is where the inlined function was: what is left is the line's own function.
    assert counted.pop(("device", "lib/bdev/bdev_null.c", "null_submit")) == 3
    assert counted.pop(("other", "libc", "memcpy")) == 11
    assert sum(counted.values()) == 5 + 2
    assert all(file == "lib/virtio/virtq.c" for _, file, _ in counted)
