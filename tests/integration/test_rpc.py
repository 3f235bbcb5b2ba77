# SPDX-License-Identifier: BSD-3-Clause
"""Each method over the socket, as clients of such daemons call them, and what is wrong with a call."""

import base64
import fcntl
import json
import os
import signal
import struct
import threading
import time
import uuid

import pytest
from harness import DEADLINE, vhostctl, wait_until

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
ENOENT, EAGAIN, EBUSY, EEXIST, ENODEV, EISDIR, EINVAL = -2, -11, -16, -17, -19, -21, -22
EROFS, ENAMETOOLONG = -30, -36
MIB = 1 << 20


def names(daemon):
    return [bdev["name"] for bdev in daemon.rpc("bdev_get_bdevs")]


# ---- general ----

def test_version(shared):
    version = shared.rpc("spdk_get_version")
    fields = version["fields"]
    assert set(fields) == {"major", "minor", "patch", "suffix"}
    text = f"{fields['major']}.{fields['minor']}.{fields['patch']}{fields['suffix']}"
    assert version["version"] == f"vhostd v{text}"


def test_methods_are_those_of_the_tables(shared):
    methods = shared.rpc("rpc_get_methods")
    documented = [line[4:] for line in vhostctl("--markdown").stdout.splitlines()
                  if line.startswith("### ")]
    assert sorted(documented) == methods
    assert "framework_start_init" in methods
    current = shared.rpc("rpc_get_methods", current=True)
    assert set(methods) - set(current) == {"framework_start_init"}
    assert "get_bdevs" in shared.rpc("rpc_get_methods", include_aliases=True)


def test_old_names(shared):
    name = shared.rpc("construct_malloc_bdev", num_blocks=8, block_size=512)
    assert [bdev["name"] for bdev in shared.rpc("get_bdevs")] == [name]
    assert shared.rpc("delete_malloc_bdev", name=name) is True


def test_subsystems_and_config(shared):
    subsystems = shared.rpc("framework_get_subsystems")
    listed = [entry["subsystem"] for entry in subsystems]
    assert {"bdev", "vhost"} <= set(listed)
    for entry in subsystems:
        assert set(entry["depends_on"]) <= set(listed[:listed.index(entry["subsystem"])])
        config = shared.rpc("framework_get_config", name=entry["subsystem"])
        assert config is None or all(set(call) == {"method", "params"} for call in config)
    assert "'none'" in shared.error("framework_get_config", name="none").message


def test_state_methods(shared):
    assert shared.rpc("framework_wait_init") is True
    error = shared.error("framework_start_init")
    assert error.code == -1 and "framework_start_init" in error.message


def test_reactors_and_threads(shared):
    reactors = shared.rpc("framework_get_reactors")
    assert reactors["tick_rate"] > 0 and reactors["pid"] == shared.process.pid
    reactor, = reactors["reactors"]
    assert reactor["lcore"] == 0 and reactor["in_interrupt"] is False
    assert reactor["mode"] in ("adaptive", "poll")
    placed = {thread["id"]: thread for thread in reactor["lw_threads"]}
    stats = shared.rpc("thread_get_stats")["threads"]
    assert {thread["id"]: thread["name"] for thread in stats} == \
        {key: thread["name"] for key, thread in placed.items()}
    for thread in stats:
        assert thread["cpumask"] == "0x1"
        assert thread["busy"] >= 0 and thread["idle"] >= 0
        assert thread["paused_pollers_count"] == 0
    for thread, counted in zip(shared.rpc("thread_get_pollers")["threads"], stats):
        assert thread["id"] == counted["id"]
        assert len(thread["active_pollers"]) == counted["active_pollers_count"]
        for poller in thread["active_pollers"] + thread["timed_pollers"]:
            assert poller["run_count"] >= poller["busy_count"] >= 0


def test_thread_cpumask(idle_vhostd):
    def on_core():
        return {thread["id"]: (reactor["lcore"], thread["cpumask"])
                for reactor in idle_vhostd.rpc("framework_get_reactors")["reactors"]
                for thread in reactor["lw_threads"]}

    two = os.sched_getaffinity(0) >= {0, 1}
    idle_vhostd.start(*(["-m", "3"] if two else []))
    everywhere = "0x3" if two else "0x1"
    idle_vhostd.rpc("bdev_null_create", name="disk", num_blocks=8, block_size=512)
    idle_vhostd.rpc("vhost_create_blk_controller", ctrlr="disk", dev_name="disk")
    ids = sorted(on_core())
    assert len(ids) >= 2
    for key in ids:
        for core in (1, 0) if two else (0,):
            mask = f"0x{1 << core:x}"
            for text in (mask, f"[{core}]"):
                assert idle_vhostd.rpc("thread_set_cpumask", id=key, cpumask=text) is True
                wait_until(lambda k=key, c=core, m=mask: on_core()[k] == (c, m), "it moved")
            stats = idle_vhostd.rpc("thread_get_stats")["threads"]
            assert {thread["id"]: thread["cpumask"] for thread in stats}[key] == mask
        error = idle_vhostd.error("thread_set_cpumask", id=key, cpumask="0x8000000000")
        assert error.code == EINVAL and "0x8000000000" in error.message
        assert on_core()[key] == (0, "0x1")
        assert idle_vhostd.rpc("thread_set_cpumask", id=key, cpumask=everywhere) is True
        assert on_core()[key] == (0, everywhere)
    error = idle_vhostd.error("thread_set_cpumask", id=4711, cpumask="0x1")
    assert error.code == ENODEV and "4711" in error.message and "No such device" in error.message
    for params in ({"id": ids[0]}, {"cpumask": "0x1"}, {"id": 0, "cpumask": "0x1"},
                   {"id": ids[0], "cpumask": "0x0"}, {"id": ids[0], "cpumask": "all"}):
        assert idle_vhostd.error("thread_set_cpumask", **params).code == INVALID_PARAMS


def modes(daemon):
    return {reactor["lcore"]: reactor["mode"]
            for reactor in daemon.rpc("framework_get_reactors")["reactors"]}


def test_mode(idle_vhostd):
    cores = [0, 1] if os.sched_getaffinity(0) >= {0, 1} else [0]
    idle_vhostd.start("-l", ",".join(map(str, cores)), "--mode", "interrupt")
    for mode in ("poll", "adaptive", "interrupt"):
        assert idle_vhostd.rpc("framework_set_mode", mode=mode) is True
        assert modes(idle_vhostd) == dict.fromkeys(cores, mode)
        for core in cores:
            assert idle_vhostd.rpc("framework_set_mode", core=core, mode="POLL") is True
            assert modes(idle_vhostd)[core] == "poll"
    error = idle_vhostd.error("framework_set_mode", core=200, mode="poll")
    assert error.code == ENODEV and "200" in error.message
    for params in ({"mode": "busy"}, {"core": 0}, {"core": 256, "mode": "poll"},
                   {"core": -2, "mode": "poll"}):
        assert idle_vhostd.error("framework_set_mode", **params).code == INVALID_PARAMS


def test_scheduler(vhostd):
    assert vhostd.rpc("framework_get_scheduler") == \
        {"scheduler_name": "dynamic", "scheduler_period": 1000000}
    for name in ("static", "static", "dynamic"):
        assert vhostd.rpc("framework_set_scheduler", name=name) is True
        assert vhostd.rpc("framework_get_scheduler")["scheduler_name"] == name
    error = vhostd.error("framework_set_scheduler", name="gscheduler")
    assert error.code == INVALID_PARAMS and "'gscheduler'" in error.message
    assert vhostd.rpc("framework_get_scheduler")["scheduler_name"] == "dynamic"


def test_io_channels(shared):
    for thread in shared.rpc("thread_get_io_channels")["threads"]:
        assert all(channel["ref"] > 0 for channel in thread["io_channels"])


def test_log(shared):
    for setter, getter in (("log_set_level", "log_get_level"),
                           ("log_set_print_level", "log_get_print_level")):
        before = shared.rpc(getter)
        assert shared.rpc(setter, level="error") is True
        assert shared.rpc(getter) == "ERROR"
        assert shared.error(setter, level="LOUD").code == INVALID_PARAMS
        shared.rpc(setter, level=before)
        assert shared.rpc(getter) == before
    flags = shared.rpc("log_get_flags")
    assert isinstance(flags, dict)
    shared.rpc("log_set_flag", flag="all")
    assert all(shared.rpc("log_get_flags").values())
    shared.rpc("log_clear_flag", flag="all")
    assert not any(shared.rpc("log_get_flags").values())
    assert "'none'" in shared.error("log_set_flag", flag="none").message


def test_log_flag_shows_its_debug_lines(shared):
    """A flag switches the debug lines of one room on, and nobody else's."""
    def new_lines(flag, name):
        before = len(shared.log_text())
        if flag:
            shared.rpc("log_set_flag", flag=flag)
        shared.rpc("bdev_malloc_create", num_blocks=8, block_size=512, name=name)
        shared.rpc("vhost_create_blk_controller", ctrlr=name, dev_name=name)
        shared.rpc("vhost_delete_controller", ctrlr=name)
        shared.rpc("bdev_malloc_delete", name=name)
        if flag:
            shared.rpc("log_clear_flag", flag=flag)
        return [line for line in shared.log_text()[before:].splitlines() if "DEBUG" in line]

    assert {"bdev", "vhost"} <= set(shared.rpc("log_get_flags"))
    assert any("bdev flagged" in line for line in new_lines("bdev", "flagged"))
    assert not new_lines("vhost", "other")
    assert not new_lines(None, "quiet")


# ---- block devices ----

def test_malloc(shared):
    assert shared.rpc("bdev_malloc_create", num_blocks=2048, block_size=512) == "Malloc0"
    known = str(uuid.uuid4())
    assert shared.rpc("bdev_malloc_create", num_blocks=256, block_size=4096, name="m",
                      uuid=known) == "m"
    assert names(shared) == ["Malloc0", "m"]
    bdev, = shared.rpc("bdev_get_bdevs", name="m")
    assert bdev["aliases"] == [known] and bdev["uuid"] == known
    assert (bdev["block_size"], bdev["num_blocks"]) == (4096, 256)
    assert bdev["claimed"] is False and bdev["zoned"] is False
    assert bdev["assigned_rate_limits"] == {"rw_ios_per_sec": 0, "rw_mbytes_per_sec": 0,
                                            "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0}
    types = bdev["supported_io_types"]
    assert types["read"] and types["write"] and types["flush"] and not types["nvme_admin"]
    assert isinstance(bdev["driver_specific"], dict)
    assert shared.rpc("bdev_get_bdevs", name=known) == [bdev]
    assert shared.rpc("bdev_malloc_delete", name="m") is True
    assert names(shared) == ["Malloc0"]


def test_null(shared):
    big = 1 << 40
    assert shared.rpc("bdev_null_create", name="n", num_blocks=big, block_size=512) == "n"
    assert shared.rpc("bdev_get_bdevs", name="n")[0]["num_blocks"] == big
    assert shared.error("bdev_malloc_delete", name="n").code == ENODEV
    assert shared.rpc("bdev_null_delete", name="n") is True


@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_file(shared, kind):
    image = shared.image(f"{kind}.img", 1 * MIB)
    create, rescan, delete = (f"bdev_{kind}_{verb}" for verb in ("create", "rescan", "delete"))
    assert shared.rpc(create, name="f", filename=str(image), block_size=4096) == "f"
    bdev, = shared.rpc("bdev_get_bdevs", name="f")
    assert (bdev["block_size"], bdev["num_blocks"]) == (4096, 256)
    os.truncate(image, 2 * MIB)
    assert shared.rpc(rescan, name="f") is True
    assert shared.rpc("bdev_get_bdevs", name="f")[0]["num_blocks"] == 512
    config = shared.rpc("framework_get_config", name="bdev")
    assert [call["method"] for call in config] == [create]
    assert config[0]["params"]["filename"] == str(image)
    assert shared.rpc(delete, name="f") is True
    assert shared.error(rescan, name="f").code == ENODEV
    assert shared.rpc(create, name="f", filename=str(image)) == "f"
    assert shared.rpc("bdev_get_bdevs", name="f")[0]["block_size"] == 512


def test_read_only_file(shared):
    image = shared.image("ro.img")
    image.chmod(0o444)
    shared.rpc("bdev_aio_create", name="ro", filename=str(image), readonly=True, fallocate=False)
    error = shared.error("vhost_create_blk_controller", ctrlr="ro", dev_name="ro")
    assert error.code == EROFS
    shared.rpc("vhost_create_blk_controller", ctrlr="ro", dev_name="ro", readonly=True)
    controller, = shared.rpc("vhost_get_controllers", name="ro")
    assert controller["backend_specific"]["block"]["readonly"] is True


def test_get_bdevs_waits(shared):
    def create():
        time.sleep(0.1)
        shared.rpc("bdev_null_create", name="late", num_blocks=1, block_size=512)

    thread = threading.Thread(target=create)
    thread.start()
    bdev, = shared.rpc("bdev_get_bdevs", name="late", timeout=1000 * DEADLINE)
    thread.join()
    assert bdev["name"] == "late"
    assert shared.error("bdev_get_bdevs", name="never", timeout=30).code == ENODEV
    assert shared.error("bdev_get_bdevs", timeout=30).code == INVALID_PARAMS


def test_iostat(shared):
    shared.rpc("bdev_null_create", name="a", num_blocks=1, block_size=512)
    shared.rpc("bdev_null_create", name="b", num_blocks=1, block_size=512)
    stat = shared.rpc("bdev_get_iostat")
    assert stat["tick_rate"] > 0 and stat["ticks"] > 0
    assert [bdev["name"] for bdev in stat["bdevs"]] == ["a", "b"]
    for key in ("bytes_read", "num_read_ops", "bytes_written", "num_write_ops", "bytes_unmapped",
                "num_unmap_ops", "read_latency_ticks", "write_latency_ticks",
                "unmap_latency_ticks", "max_read_latency_ticks", "min_write_latency_ticks"):
        assert stat["bdevs"][0][key] == 0
    one = shared.rpc("bdev_get_iostat", name="b", reset_mode="all")["bdevs"]
    assert [bdev["name"] for bdev in one] == ["b"]
    both = shared.rpc("bdev_get_iostat", names=["b", "a"], reset_mode="none")["bdevs"]
    assert [bdev["name"] for bdev in both] == ["b", "a"]
    for params in ({"name": "a"}, {"names": ["a"]}):
        stat = shared.rpc("bdev_get_iostat", per_channel=True, **params)
        assert set(stat) == {"tick_rate", "ticks", "name", "channels"}
        assert (stat["name"], stat["channels"]) == ("a", [])
    for params in ({}, {"names": ["a", "b"]}, {"names": []}):
        assert shared.error("bdev_get_iostat", per_channel=True, **params).code == EINVAL
    assert shared.error("bdev_get_iostat", per_channel=True, name="none").code == ENODEV
    assert shared.error("bdev_get_iostat", name="none").code == ENODEV
    assert shared.error("bdev_get_iostat", names=["a", "none"]).code == ENODEV
    assert shared.error("bdev_get_iostat", reset_mode="some").code == INVALID_PARAMS
    assert shared.rpc("bdev_get_iostat", reset_mode="maxmin")["bdevs"] == both[::-1]


def test_reset_iostat(shared):
    shared.rpc("bdev_null_create", name="a", num_blocks=1, block_size=512)
    for params in ({}, {"name": "a"}, {"name": "a", "mode": "maxmin"}, {"mode": "all"},
                   {"mode": "none"}):
        assert shared.rpc("bdev_reset_iostat", **params) is True
    assert shared.error("bdev_reset_iostat", name="none").code == ENODEV
    assert shared.error("bdev_reset_iostat", name="a", mode="min").code == INVALID_PARAMS


def test_histogram(shared):
    shared.rpc("bdev_null_create", name="a", num_blocks=1, block_size=512)
    error = shared.error("bdev_get_histogram", name="a")
    assert error.code == EINVAL and "bdev_enable_histogram" in error.message
    assert shared.rpc("bdev_enable_histogram", name="a", enable=True) is True
    assert shared.rpc("bdev_enable_histogram", name="a", enable=True) is True
    histogram = shared.rpc("bdev_get_histogram", name="a")
    assert histogram["bucket_shift"] == 7 and histogram["tsc_rate"] > 0
    assert (histogram["granularity"], histogram["min_range"], histogram["max_range"]) == (7, 0, 57)
    assert base64.b64decode(histogram["histogram"], validate=True) == bytes(8 * 58 * 128)
    assert histogram["count"] == 0 and "channels" not in histogram
    assert [entry["percentile"] for entry in histogram["percentiles"]] == \
        ["50", "90", "99", "99.9", "99.99", "100"]
    assert shared.rpc("bdev_get_histogram", name="a", per_channel=True)["channels"] == []
    assert "percentile" in shared.ctl("bdev_get_histogram", "--name", "a").stdout
    assert shared.rpc("bdev_enable_histogram", name="a", enable=False) is True
    assert shared.error("bdev_get_histogram", name="a").code == EINVAL
    assert shared.error("bdev_enable_histogram", name="none", enable=True).code == ENODEV
    assert shared.error("bdev_enable_histogram", name="a").code == INVALID_PARAMS
    assert shared.error("bdev_get_histogram", name="none").code == ENODEV


RATES = ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec")


def test_qos_limit(shared):
    def shown():
        return shared.rpc("bdev_get_bdevs", name="a")[0]["assigned_rate_limits"]

    shared.rpc("bdev_null_create", name="a", num_blocks=1, block_size=512)
    assert shown() == dict.fromkeys(RATES, 0)
    for number, rate in enumerate(RATES, 3):
        assert shared.rpc("bdev_set_qos_limit", name="a", **{rate: number}) is True
    assert shown() == dict(zip(RATES, (3, 4, 5, 6)))
    assert shared.rpc("set_bdev_qos_limit", name="a", rw_ios_per_sec=0, r_mbytes_per_sec=-1,
                      w_mbytes_per_sec=(1 << 43) - 1) is True
    assert shown() == dict(zip(RATES, (0, 4, 5, (1 << 43) - 1)))
    assert shared.rpc("bdev_set_qos_limit", name="a", **dict.fromkeys(RATES, 0)) is True
    assert shown() == dict.fromkeys(RATES, 0)
    assert shared.error("bdev_set_qos_limit", name="a").code == EINVAL
    assert shared.error("bdev_set_qos_limit", name="none", rw_ios_per_sec=1).code == ENODEV
    for value in (-2, 1 << 43, "1", 1.5):
        assert shared.error("bdev_set_qos_limit", name="a", r_mbytes_per_sec=value).code == \
            INVALID_PARAMS
    assert shown() == dict.fromkeys(RATES, 0)


LATENCIES = {"avg_read_latency": 1, "p99_read_latency": 2, "avg_write_latency": 3,
             "p99_write_latency": 4}


def test_error_and_delay(shared):
    below = {"num_blocks": 64, "block_size": 4096}
    shared.rpc("bdev_malloc_create", name="m", **below)
    known = str(uuid.uuid4())
    assert shared.rpc("bdev_error_create", base_name="m", uuid=known) == "EE_m"
    assert shared.rpc("bdev_delay_create", name="d", base_bdev_name=known, **LATENCIES) == "d"
    low, error, delay = shared.rpc("bdev_get_bdevs")
    for bdev in (error, delay):
        for key in ("block_size", "num_blocks", "supported_io_types"):
            assert bdev[key] == low[key]
    assert low["claimed"] and error["claimed"] and not delay["claimed"]
    assert error["driver_specific"] == {"error_disk": {"base_bdev": "m"}}
    assert delay["driver_specific"] == {
        "delay": {"name": "d", "base_bdev_name": "EE_m"} | LATENCIES}
    for kind, latency in (("avg_read", 9), ("p99_read", 8), ("avg_write", 0), ("p99_write", 6)):
        assert shared.rpc("bdev_delay_update_latency", delay_bdev_name="d", latency_type=kind,
                          latency_us=latency) is True
    delay, = shared.rpc("bdev_get_bdevs", name="d")
    assert delay["driver_specific"]["delay"]["avg_read_latency"] == 9
    for method, name in (("bdev_malloc_delete", "m"), ("bdev_error_delete", "EE_m")):
        assert shared.error(method, name=name).code == EBUSY
    assert shared.error("bdev_delay_delete", name="EE_m").code == ENODEV
    assert shared.rpc("bdev_delay_delete", name="d") is True
    assert shared.rpc("bdev_error_delete", name="EE_m") is True
    assert shared.rpc("bdev_error_create", base_name="m", name="e") == "e"
    assert shared.error("bdev_error_create", base_name="m", name="e").code == EEXIST
    for method, params in (("bdev_error_create", {"base_name": "none"}),
                           ("bdev_delay_create",
                            {"name": "d", "base_bdev_name": "none"} | LATENCIES)):
        assert shared.error(method, **params).code == ENODEV
    assert shared.error("bdev_delay_create", name="d", base_bdev_name="m").code == INVALID_PARAMS
    assert shared.error("bdev_delay_create", name="d", base_bdev_name="m",
                        **LATENCIES | {"avg_read_latency": -1}).code == INVALID_PARAMS
    assert shared.error("bdev_delay_update_latency", delay_bdev_name="e", latency_type="avg_read",
                        latency_us=1).code == ENODEV
    assert names(shared) == ["m", "e"]


def test_inject_error(shared):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    name = shared.rpc("construct_error_bdev", base_name="n")
    for io_type in ("read", "write", "flush", "unmap", "write_zeroes", "all", "clear"):
        for error_type in ("failure", "pending", "nomem"):
            assert shared.rpc("bdev_error_inject_error", name=name, io_type=io_type,
                              error_type=error_type, num=7, queue_depth=2) is True
    given = {"name": name, "io_type": "all", "error_type": "corrupt_data"}
    assert shared.rpc("bdev_inject_error", corrupt_offset=1, corrupt_value=255, **given) is True
    for params in ({}, {"io_type": "flush", "corrupt_value": 1}, {"io_type": "reset"},
                   {"error_type": "bad"}, {"corrupt_value": 256}, {"num": -1},
                   {"num": 1 << 32}, {"queue_depth": -1}, {"corrupt_offset": -1}):
        assert shared.error("bdev_error_inject_error", **given | params).code in \
            (EINVAL, INVALID_PARAMS)
    assert shared.error("bdev_error_inject_error", **given | {"name": "n", "corrupt_value": 1}
                        ).code == ENODEV
    assert shared.rpc("delete_error_bdev", name=name) is True


def test_null_resize(shared):
    shared.rpc("bdev_null_create", name="n", num_blocks=2048, block_size=4096)
    assert shared.rpc("bdev_null_resize", name="n", new_size=16) is True
    assert shared.rpc("bdev_get_bdevs", name="n")[0]["num_blocks"] == 4096
    error = shared.error("bdev_null_resize", name="n", new_size=15)
    assert error.code == EINVAL and "'n'" not in error.message and " n " in error.message
    for size in (0, -1, 1 << 43, 1 << 62, "16", 16.5):
        assert shared.error("bdev_null_resize", name="n", new_size=size).code in \
            (EINVAL, INVALID_PARAMS)
    shared.rpc("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
    for name in ("m", "none"):
        assert shared.error("bdev_null_resize", name=name, new_size=16).code == ENODEV
    assert shared.rpc("bdev_get_bdevs", name="n")[0]["num_blocks"] == 4096


def test_options_and_examine(shared):
    """What clients send before and after they make block devices."""
    assert shared.rpc("bdev_set_options", bdev_io_pool_size=65535, bdev_io_cache_size=256,
                      bdev_auto_examine=True, iobuf_small_cache_size=128,
                      iobuf_large_cache_size=16) is True
    assert shared.rpc("bdev_set_options", small_buf_pool_size=8191,
                      large_buf_pool_size=1023) is True
    assert shared.rpc("bdev_set_options") is True
    for params in ({"bdev_io_pool_size": -1}, {"bdev_io_cache_size": 1 << 32},
                   {"bdev_auto_examine": 1}, {"bdev_io_size": 1}):
        assert shared.error("bdev_set_options", **params).code == INVALID_PARAMS
    assert shared.rpc("bdev_wait_for_examine") is True
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    assert shared.rpc("bdev_examine", name="n") is True
    assert shared.error("bdev_examine", name="none").code == ENODEV


@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_sqpoll(shared, kind):
    image = shared.image(f"sqpoll-{kind}.img")
    create = f"bdev_{kind}_create"
    assert shared.rpc(create, name="f", filename=str(image), sqpoll=True) == "f"
    bdev, = shared.rpc("bdev_get_bdevs", name="f")
    assert bdev["driver_specific"][kind]["sqpoll"] is True
    assert shared.rpc("framework_get_config", name="bdev")[0]["params"]["sqpoll_idle_ms"] == 10
    shared.rpc(f"bdev_{kind}_delete", name="f")
    for params in ({"sqpoll": True, "sqpoll_idle_ms": 60001}, {"sqpoll_idle_ms": 5},
                   {"sqpoll": True, "sqpoll_idle_ms": -1}, {"sqpoll": 1}):
        assert shared.error(create, name="f", filename=str(image), **params).code == INVALID_PARAMS
    assert names(shared) == []


def test_rescan_of_a_smaller_file(shared):
    image = shared.image("smaller.img", 2 * MIB)
    shared.rpc("bdev_aio_create", name="f", filename=str(image))
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="f")
    os.truncate(image, MIB)
    error = shared.error("bdev_aio_rescan", name="f")
    assert error.code == EBUSY and "block device f is in use" in error.message
    assert shared.rpc("bdev_get_bdevs", name="f")[0]["num_blocks"] == 2 * MIB // 512
    shared.rpc("vhost_delete_controller", ctrlr="c")
    assert shared.rpc("bdev_aio_rescan", name="f") is True
    assert shared.rpc("bdev_get_bdevs", name="f")[0]["num_blocks"] == MIB // 512


BAD_NAMES = ["", "a/b", "/", "a\nb", "\x1b[31m", "n" * 128, "n" * 5000]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_bdev_names(shared, name):
    error = shared.error("bdev_null_create", name=name, num_blocks=1, block_size=512)
    assert error.code in (EINVAL, INVALID_PARAMS)
    assert shared.error("bdev_null_delete", name=name).code in (ENODEV, INVALID_PARAMS)
    assert shared.error("bdev_get_bdevs", name=name).code in (ENODEV, INVALID_PARAMS)
    assert names(shared) == []


@pytest.mark.parametrize("params", [
    {"num_blocks": 0}, {"num_blocks": -1}, {"num_blocks": 1.0}, {"num_blocks": "8"},
    {"num_blocks": None}, {"num_blocks": True}, {"num_blocks": (1 << 63) - 1},
    {"num_blocks": 1 << 55, "block_size": 65536}, {"block_size": 0}, {"block_size": 256},
    {"block_size": 513}, {"block_size": 3 * 512}, {"block_size": 131072}, {"block_size": -512},
    {"uuid": "no uuid"}, {"uuid": 5}, {"name": 5}, {"name": ["n"]}, {"size": 1}])
def test_bad_bdev_params(shared, params):
    given = {"name": "n", "num_blocks": 8, "block_size": 512} | params
    for method in ("bdev_null_create", "bdev_malloc_create"):
        assert shared.error(method, **given).code in (EINVAL, INVALID_PARAMS)
    assert names(shared) == []


def test_malloc_without_memory(shared):
    error = shared.error("bdev_malloc_create", num_blocks=1 << 50, block_size=512)
    assert error.code in (-12, EINVAL)


def test_duplicates(shared):
    known = str(uuid.uuid4())
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512, uuid=known)
    for method, params in (("bdev_null_create", {"name": "n"}),
                           ("bdev_malloc_create", {"name": "n"}),
                           ("bdev_malloc_create", {"name": "m", "uuid": known})):
        error = shared.error(method, num_blocks=8, block_size=512, **params)
        assert error.code == EEXIST and "File exists" in error.message
    assert names(shared) == ["n"]


def test_missing_bdevs(shared):
    for method in ("bdev_malloc_delete", "bdev_null_delete", "bdev_aio_delete",
                   "bdev_uring_delete", "bdev_aio_rescan", "bdev_get_bdevs", "bdev_get_iostat",
                   "bdev_error_delete", "bdev_delay_delete"):
        error = shared.error(method, name="none")
        assert error.code == ENODEV and "No such device" in error.message
        assert "none" in error.message


def make_fifo(path):
    os.mkfifo(path)


def make_locked(path):
    path.write_bytes(bytes(MIB))
    file = open(path, "r+b")
    # struct flock: an OFD write lock on the whole file
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
    return file


@pytest.mark.parametrize("make, code", [
    (lambda path: None, ENOENT),
    (lambda path: path.mkdir(), EISDIR),
    (make_fifo, EINVAL),
    (lambda path: path.write_bytes(b""), EINVAL),
    (lambda path: path.write_bytes(bytes(1000)), EINVAL),
    (make_locked, EAGAIN),
    (lambda path: path.symlink_to(path), -40),
], ids=["missing", "folder", "fifo", "empty", "odd size", "locked", "loop"])
def test_bad_files(vhostd, make, code):
    path = vhostd.folder / "bad"
    holder = make(path)
    for method in ("bdev_aio_create", "bdev_uring_create"):
        error = vhostd.error(method, name="f", filename=str(path))
        assert error.code == code
        assert str(path) in error.message
    assert names(vhostd) == []
    if hasattr(holder, "close"):
        holder.close()
        assert vhostd.rpc("bdev_aio_create", name="f", filename=str(path)) == "f"


def test_file_names(shared):
    assert shared.error("bdev_aio_create", name="f", filename="").code in (ENOENT, EINVAL)
    assert shared.error("bdev_aio_create", name="f", filename="/" + "x" * 300).code == ENAMETOOLONG
    assert shared.error("bdev_aio_create", name="f", filename="x" * 5000).code == INVALID_PARAMS


# ---- the daemon and its machine ----

def test_framework_state(shared):
    state = shared.rpc("framework_get_state")
    assert state == {"state": "running", "state_file": str(shared.state), "saved": True,
                     "failed": []}


def test_state_before_the_start(idle_vhostd):
    idle_vhostd.start("--wait-for-rpc")
    assert idle_vhostd.rpc("framework_get_state")["state"] == "startup"
    idle_vhostd.rpc("framework_start_init")
    assert idle_vhostd.rpc("framework_get_state")["state"] == "running"


def test_state_that_cannot_be_saved(vhostd):
    vhostd.rpc("bdev_null_create", name="a", num_blocks=8, block_size=512)
    aside = vhostd.state.rename(vhostd.folder / "aside.json")
    vhostd.state.mkdir()
    vhostd.error("bdev_null_create", name="b", num_blocks=8, block_size=512)
    assert vhostd.rpc("framework_get_state")["saved"] is False
    event = vhostd.rpc("notify_get_notifications")[-1]
    assert event["type"] == "state_save_failed" and str(vhostd.state) in event["ctx"]
    vhostd.state.rmdir()
    aside.rename(vhostd.state)
    assert vhostd.error("bdev_null_create", name="b", num_blocks=8, block_size=512).code == EEXIST
    assert vhostd.rpc("framework_get_state")["saved"] is True


def test_pci_devices(shared):
    devices = shared.rpc("framework_get_pci_devices")
    folder = "/sys/bus/pci/devices"
    expected = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    assert [device["address"] for device in devices] == expected
    for device in devices:
        assert device["type"] in ("nvme", "other")
        config = bytes.fromhex(device["config_space"])
        with open(f"{folder}/{device['address']}/vendor", encoding="ascii") as file:
            assert int.from_bytes(config[:2], "little") == int(file.read(), 16)
        with open(f"{folder}/{device['address']}/class", encoding="ascii") as file:
            assert (device["type"] == "nvme") == file.read().startswith("0x0108")
        driver = f"{folder}/{device['address']}/driver"
        assert device["driver"] == (os.path.basename(os.readlink(driver))
                                    if os.path.islink(driver) else None)


def test_notifications(shared):
    types = shared.rpc("notify_get_types")
    assert {"bdev_register", "bdev_unregister", "vhost_controller_create"} <= set(types)
    before = shared.rpc("notify_get_notifications")
    last = before[-1]["id"] if before else 0
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="n")
    shared.rpc("vhost_delete_controller", ctrlr="c")
    shared.rpc("bdev_null_delete", name="n")
    expected = [{"type": kind, "ctx": ctx, "id": last + i} for i, (kind, ctx) in enumerate((
        ("bdev_register", "n"), ("vhost_controller_create", "c"), ("vhost_controller_delete", "c"),
        ("bdev_unregister", "n")), 1)]
    assert {event["type"] for event in expected} <= set(types)
    assert shared.rpc("notify_get_notifications", id=last + 1) == expected
    assert shared.rpc("notify_get_notifications", id=last + 2, max=2) == expected[1:3]
    assert shared.rpc("notify_get_notifications", max=0) == []
    assert shared.rpc("notify_get_notifications", id=last + 5) == []
    assert shared.rpc("notify_get_notifications", id=(1 << 63) - 1) == []
    assert shared.rpc("get_notifications", id=last + 4) == expected[3:]
    for params in ({"id": -1}, {"max": -1}, {"id": "1"}, {"type": "x"}):
        assert shared.error("notify_get_notifications", **params).code == INVALID_PARAMS


# ---- vhost ----

def test_coalescing(shared):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="n")
    for delay, threshold in ((100, 60000), (1000000, 100), (0, (1 << 32) - 1), (0, 60000)):
        assert shared.rpc("vhost_controller_set_coalescing", ctrlr="c", delay_base_us=delay,
                          iops_threshold=threshold) is True
        controller, = shared.rpc("vhost_get_controllers")
        assert (controller["delay_base_us"], controller["iops_threshold"]) == (delay, threshold)
    given = {"ctrlr": "c", "delay_base_us": 5, "iops_threshold": 500}
    for params in ({"delay_base_us": -1}, {"delay_base_us": 1000001}, {"delay_base_us": "5"},
                   {"delay_base_us": 1 << 32}, {"iops_threshold": 99}, {"iops_threshold": 0},
                   {"iops_threshold": -1}, {"iops_threshold": 1 << 32}, {"more": 1}):
        error = shared.error("vhost_controller_set_coalescing", **given | params)
        assert error.code == INVALID_PARAMS
    for name in given:
        some = {key: value for key, value in given.items() if key != name}
        assert shared.error("vhost_controller_set_coalescing", **some).code == INVALID_PARAMS
    controller, = shared.rpc("vhost_get_controllers")
    assert (controller["delay_base_us"], controller["iops_threshold"]) == (0, 60000)
    error = shared.error("vhost_controller_set_coalescing", **given | {"ctrlr": "none"})
    assert error.code == ENODEV and "No such device" in error.message


def test_resize(shared):
    image = shared.image("grows.img", MIB)
    shared.rpc("bdev_aio_create", name="f", filename=str(image))
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="f")
    os.truncate(image, 2 * MIB)
    assert shared.rpc("vhost_controller_resize", ctrlr="c") is True
    assert shared.rpc("bdev_get_bdevs", name="f")[0]["num_blocks"] == 2 * MIB // 512
    assert shared.error("vhost_controller_resize", ctrlr="none").code == ENODEV
    assert shared.error("vhost_controller_resize").code == INVALID_PARAMS


def test_stats(shared):
    for name in ("a", "b"):
        shared.rpc("bdev_null_create", name=name, num_blocks=8, block_size=512)
        shared.rpc("vhost_create_blk_controller", ctrlr=name, dev_name=name)
    counters = {"inflight", "requests", "bytes_read", "bytes_written", "errors", "sleeps", "kicks", "calls",
                "calls_suppressed", "calls_coalesced", "breaks"}
    both = shared.rpc("vhost_get_stats")
    assert [entry["ctrlr"] for entry in both] == ["a", "b"]
    for entry in both:
        assert set(entry) == counters | {"ctrlr", "running_queues", "broken_queues", "connections",
                                         "connected"}
        assert all(entry[counter] == 0 for counter in counters)
    one, = shared.rpc("vhost_get_stats", ctrlr="b", per_queue=True)
    assert one["ctrlr"] == "b" and one["queues"] == []
    error = shared.error("vhost_get_stats", ctrlr="none")
    assert error.code == ENODEV and "No such device" in error.message


def test_transports(shared):
    assert shared.rpc("virtio_blk_get_transports") == [{"name": "vhost_user_blk"}]
    assert shared.rpc("virtio_blk_get_transports", name="vhost_user_blk") == \
        [{"name": "vhost_user_blk"}]
    assert shared.error("virtio_blk_get_transports", name="none").code == ENODEV
    error = shared.error("virtio_blk_create_transport", name="vhost_user_blk")
    assert error.code == EEXIST and "File exists" in error.message
    assert shared.error("virtio_blk_create_transport", name="vfio_user_blk").code == EINVAL
    assert shared.error("virtio_blk_create_transport").code == INVALID_PARAMS


def test_controller(shared):
    shared.rpc("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    assert shared.rpc("vhost_get_controllers") == []
    assert shared.rpc("vhost_create_blk_controller", ctrlr="vhost.0", dev_name="m",
                      cpumask="0x1", packed_ring=True, transport="vhost_user_blk") is True
    controller, = shared.rpc("vhost_get_controllers", name="vhost.0")
    assert shared.rpc("vhost_get_controllers") == [controller]
    assert controller["ctrlr"] == "vhost.0"
    assert int(controller["cpumask"], 16) == 1
    assert controller["delay_base_us"] == 0 and controller["iops_threshold"] >= 0
    assert controller["socket"] == str(shared.folder / "vhost.0")
    assert controller["sessions"] == []
    block = controller["backend_specific"]["block"]
    assert block["bdev"] == "m" and block["readonly"] is False
    assert (shared.folder / "vhost.0").is_socket()
    assert shared.rpc("bdev_get_bdevs", name="m")[0]["claimed"] is True
    error = shared.error("bdev_malloc_delete", name="m")
    assert error.code == EBUSY and "vhost.0" in error.message
    assert shared.rpc("vhost_delete_controller", ctrlr="vhost.0") is True
    assert not (shared.folder / "vhost.0").exists()
    assert shared.rpc("vhost_get_controllers") == []
    shared.rpc("bdev_malloc_delete", name="m")


def test_scsi_disks_have_no_other_writers(shared):
    """Reservations would mean nothing to them. Two virtio-blk controllers share a disk as always."""
    blk, scsi, add = "vhost_create_blk_controller", "vhost_create_scsi_controller", "vhost_scsi_controller_add_target"
    shared.rpc("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    shared.rpc(scsi, ctrlr="s")
    shared.rpc(blk, ctrlr="b", dev_name="m")
    shared.rpc(blk, ctrlr="b2", dev_name="m")
    error = shared.error(add, ctrlr="s", scsi_target_num=0, bdev_name="m")
    assert error.code == EBUSY and "block device m is in use by vhost controller b:" in error.message
    shared.rpc("vhost_delete_controller", ctrlr="b")
    shared.rpc("vhost_delete_controller", ctrlr="b2")
    shared.rpc(blk, ctrlr="r", dev_name="m", readonly=True)
    assert shared.rpc(add, ctrlr="s", scsi_target_num=0, bdev_name="m") == 0
    shared.rpc(scsi, ctrlr="s2")
    assert shared.rpc(add, ctrlr="s2", scsi_target_num=0, bdev_name="m") == 0
    for method, params in ((blk, {"ctrlr": "b", "dev_name": "m"}), ("bdev_error_create", {"base_name": "m"}),
                           ("bdev_delay_create", {"name": "d", "base_bdev_name": "m"} | LATENCIES)):
        error = shared.error(method, **params)
        assert error.code == EBUSY and "block device m is in use by SCSI disk m:" in error.message
    shared.rpc(blk, ctrlr="r2", dev_name="m", readonly=True)
    for controller in "s", "s2":
        assert shared.rpc("bdev_get_bdevs", name="m")[0]["claimed"] is True
        assert shared.rpc("vhost_scsi_controller_remove_target", ctrlr=controller, scsi_target_num=0) is True
    # Below a SCSI disk nobody writes, either.
    assert shared.rpc("bdev_error_create", base_name="m") == "EE_m"
    assert shared.rpc(add, ctrlr="s", scsi_target_num=0, bdev_name="EE_m") == 0
    error = shared.error(blk, ctrlr="b", dev_name="m")
    assert error.code == EBUSY and "block device m is in use by block device EE_m:" in error.message
    assert shared.rpc("vhost_scsi_controller_remove_target", ctrlr="s", scsi_target_num=0) is True
    shared.rpc(blk, ctrlr="b", dev_name="m")
    error = shared.error(add, ctrlr="s", scsi_target_num=0, bdev_name="EE_m")
    assert error.code == EBUSY and "block device m is in use by vhost controller b:" in error.message


def test_controller_errors(shared):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    create = "vhost_create_blk_controller"
    error = shared.error(create, ctrlr="c", dev_name="none")
    assert error.code == ENODEV and "No such device" in error.message and "none" in error.message
    shared.rpc(create, ctrlr="c", dev_name="n")
    error = shared.error(create, ctrlr="c", dev_name="n")
    assert error.code == EEXIST and "File exists" in error.message
    for method, params in (("vhost_get_controllers", {"name": "d"}),
                           ("vhost_delete_controller", {"ctrlr": "d"})):
        error = shared.error(method, **params)
        assert error.code == ENODEV and "No such device" in error.message
    for params in ({"cpumask": "0x8000000000"}, {"cpumask": "0x0"}, {"cpumask": "[0"},
                   {"cpumask": ""}, {"transport": "vfio_user"}, {"readonly": "yes"},
                   {"delay": 3}):
        assert shared.error(create, ctrlr="e", dev_name="n", **params).code in \
            (EINVAL, INVALID_PARAMS)
    assert [entry["ctrlr"] for entry in shared.rpc("vhost_get_controllers")] == ["c"]


@pytest.mark.parametrize("name", BAD_NAMES + [".", "..", "c" * 64])
def test_bad_controller_names(shared, name):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    before = set(shared.folder.iterdir())
    error = shared.error("vhost_create_blk_controller", ctrlr=name, dev_name="n")
    assert error.code in (EINVAL, ENAMETOOLONG, INVALID_PARAMS)
    assert shared.error("vhost_delete_controller", ctrlr=name).code in (ENODEV, INVALID_PARAMS)
    assert shared.rpc("vhost_get_controllers") == []
    assert set(shared.folder.iterdir()) == before


def test_controller_socket_files(vhostd):
    vhostd.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    (vhostd.folder / "file").write_text("precious")
    assert vhostd.error("vhost_create_blk_controller", ctrlr="file", dev_name="n").code < 0
    assert (vhostd.folder / "file").read_text() == "precious"
    error = vhostd.error("vhost_create_blk_controller", ctrlr="rpc.sock", dev_name="n")
    assert error.code == -98
    vhostd.rpc("spdk_get_version")


# ---- the protocol, on the whole daemon; more of it in tests/unit/test_jsonrpc_*.c ----

def test_split_and_joined(shared):
    texts = [json.dumps({"jsonrpc": "2.0", "id": i, "method": "log_get_level"}) for i in range(50)]
    with shared.connect() as connection:
        for byte in texts[0].encode():
            connection.send(bytes([byte]))
        assert connection.next()["id"] == 0
        connection.send("".join(texts).encode())
        assert [connection.next()["id"] for _ in texts] == list(range(50))
        connection.send(("[" + ",".join(texts) + "]").encode())
        assert [answer["id"] for answer in connection.next()] == list(range(50))


@pytest.mark.parametrize("data", [
    b"\xff\xfe\xfd", b"{\"id\":1,\"method\":\"bdev_get_bdevs\",\"params\":{\"name\":\"\xff\"}}",
    b"not json at all", b"[" * 33, b"{\"a\":" * 40, b"\0" * 100, b"{\"a\":}",
    b"{\"method\":\"" + b"x" * (5 * MIB)],
    ids=["bytes", "name not UTF-8", "text", "deep", "deep objects", "zeroes", "no value", "large"])
def test_malformed(shared, data):
    shared.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="n")
    with shared.connect() as connection:
        connection.send(data)
        answer = connection.next()
        assert answer["error"]["code"] == PARSE_ERROR and answer["id"] is None
        assert connection.next() is None
    assert "connection closed" in shared.log_text()
    assert [entry["ctrlr"] for entry in shared.rpc("vhost_get_controllers")] == ["c"]


def test_unknown_method_and_params(shared):
    error = shared.error("bdev_format_everything")
    assert (error.code, error.message) == (NO_METHOD, "Method not found")
    error = shared.error("spdk_get_version", verbose=True)
    assert error.code == INVALID_PARAMS and "'verbose'" in error.message
    with shared.connect() as connection:
        connection.send(b'{"id":1,"method":"bdev_get_bdevs","params":["n"]}')
        assert connection.next()["error"]["code"] == INVALID_PARAMS
        connection.send(b'{"id":"x","method":7}')
        assert connection.next()["error"]["code"] == INVALID_REQUEST


def test_many_clients_at_once(shared):
    """Each makes, finds and deletes devices of its own."""
    failures = []

    def client(number):
        try:
            with shared.connect() as connection:
                for _ in range(10):
                    name = connection.call("bdev_null_create", name=f"n{number}", num_blocks=8,
                                           block_size=512)
                    connection.call("vhost_create_blk_controller", ctrlr=f"c{number}",
                                    dev_name=name)
                    connection.call("vhost_get_controllers", name=f"c{number}")
                    connection.call("vhost_delete_controller", ctrlr=f"c{number}")
                    connection.call("bdev_null_delete", name=name)
        except Exception as problem:      # a thread's exception would be lost
            failures.append(problem)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(shared) == []


def test_client_gone_during_call(shared):
    for _ in range(5):
        with shared.connect() as connection:
            connection.send(b'{"id":1,"method":"bdev_get_bdevs",'
                            b'"params":{"name":"never","timeout":100}}')
    shared.rpc("spdk_get_version")


# ---- the process ----

def test_kill_instance(vhostd):
    assert vhostd.error("spdk_kill_instance", sig_name="SIGSTOP").code == INVALID_PARAMS
    assert vhostd.rpc("spdk_kill_instance", sig_name="SIGTERM") is True
    assert vhostd.wait() == 0
    assert not vhostd.socket.exists()
    vhostd.start()
    with vhostd.connect() as connection:
        connection.send(b'{"id":1,"method":"spdk_kill_instance","params":{"sig_name":"SIGKILL"}}')
        assert vhostd.wait() == -signal.SIGKILL


def test_stop_does_not_wait_for_a_waiting_client(vhostd):
    with vhostd.connect() as connection:
        connection.send(b'{"id":1,"method":"bdev_get_bdevs",'
                        b'"params":{"name":"never","timeout":3600000}}')
        vhostd.rpc("spdk_get_version")
        vhostd.stop()
        assert connection.next()["error"]["code"] == ENODEV


def test_rpc_socket(vhostd):
    assert vhostd.socket.stat().st_mode & 0o777 == 0o600
    second = vhostd.spawn("--state", str(vhostd.folder / "other.json"))
    assert second.wait(DEADLINE) != 0
    assert str(vhostd.socket) in vhostd.log_text()
    vhostd.rpc("spdk_get_version")
    vhostd.kill()
    assert vhostd.socket.exists()
    vhostd.start()
    vhostd.stop()
    assert not vhostd.socket.exists()
