# SPDX-License-Identifier: BSD-3-Clause
"""NVMe controllers over JSON-RPC, with the software device: what clients see, what comes back."""

import json
import socket

import pytest
from harness import wait_until
from nvme import NvmeDevice, Watch

TWO = ("ns add 1 memory 8192 512", "ns add 3 memory 1024 4096")


@pytest.fixture
def device(folder):
    nvme = NvmeDevice(folder, "nvme", *TWO)
    nvme.start()
    yield nvme
    nvme.stop()


@pytest.fixture
def daemon(device, vhostd):
    """The device outlives the daemon, so that nothing is left behind in it."""
    return vhostd


def attach(daemon, device, name="nvme0", **more):
    return daemon.rpc("bdev_nvme_attach_controller", name=name, trtype="VFIOUSER",
                      traddr=str(device.socket), **more)


def bdevs(daemon):
    return {bdev["name"]: bdev for bdev in daemon.rpc("bdev_get_bdevs")}


def controller(daemon, name="nvme0"):
    return daemon.rpc("bdev_nvme_get_controllers", name=name)[0]


def state(daemon, name="nvme0"):
    return controller(daemon, name)["ctrlrs"][0]["state"]


def wait_for_bdevs(daemon, *names):
    wait_until(lambda: sorted(bdevs(daemon)) == sorted(names), f"block devices {names}")


def wait_for_vhost(daemon, *names):
    wait_until(lambda: [entry["ctrlr"] for entry in daemon.rpc("vhost_get_controllers")] ==
               list(names), f"vhost controllers {names}")


def save(daemon):
    return daemon.ctl("save-config").stdout


# ---- what clients see

def test_attach_and_detach(daemon, device):
    assert attach(daemon, device) == ["nvme0n1", "nvme0n3"]
    both = bdevs(daemon)
    first, third = both["nvme0n1"], both["nvme0n3"]
    assert (first["block_size"], first["num_blocks"]) == (512, 8192)
    assert (third["block_size"], third["num_blocks"]) == (4096, 1024)
    assert first["product_name"] == "NVMe disk" and first["aliases"] == [first["uuid"]]
    assert first["uuid"] != third["uuid"]
    types = first["supported_io_types"]
    assert types["read"] and types["write"] and types["flush"] and types["unmap"] and \
        types["write_zeroes"] and types["reset"]
    specific = first["driver_specific"]["nvme"][0]
    assert specific["trid"] == {"trtype": "VFIOUSER", "traddr": str(device.socket)}
    assert specific["ctrlr_data"]["model_number"] == "vhostd software NVMe device"
    assert specific["ctrlr_data"]["serial_number"] == "SOFTWARE-0001"
    assert specific["vs"] == {"nvme_version": "1.4"} and specific["ns_data"] == {"id": 1}
    one = controller(daemon)
    assert one["ctrlrs"] == [{"state": "enabled", "cntlid": specific["ctrlr_data"]["cntlid"],
                              "trid": specific["trid"],
                              "host": {"nqn": "", "addr": "", "svcid": ""}}]
    assert one["bdevs"] == ["nvme0n1", "nvme0n3"] and one["configured"]
    assert one["serial_number"] == "SOFTWARE-0001" and one["resets"] == 0
    assert daemon.rpc("bdev_nvme_get_controllers") == [one]
    assert daemon.rpc("bdev_nvme_detach_controller", name="nvme0") is True
    assert daemon.rpc("bdev_get_bdevs") == []
    assert daemon.rpc("bdev_nvme_get_controllers") == []
    assert device.stats()["shutdowns"] == "1"
    # The same device is the same disk, whatever it is called.
    assert attach(daemon, device, "other") == ["othern1", "othern3"]
    assert bdevs(daemon)["othern1"]["uuid"] == first["uuid"]


def test_tables(daemon, device):
    attach(daemon, device)
    table = daemon.ctl("bdev_nvme_get_controllers").stdout
    assert "SOFTWARE-0001" in table and "nvme0n1,nvme0n3" in table and "enabled" in table
    assert "temperature_celsius" in daemon.ctl("bdev_nvme_get_controller_health_info", "--name",
                                               "nvme0").stdout


def test_as_existing_clients_call(daemon, device):
    names = attach(daemon, device, adrfam="ipv4", trsvcid="0", hostnqn="nqn.host",
                   prchk_reftag=False, prchk_guard=False, hdgst=False, ddgst=False,
                   multipath="disable", ctrlr_loss_timeout_sec=0, reconnect_delay_sec=0,
                   fast_io_fail_timeout_sec=0, num_io_queues=4, max_bdevs=8,
                   subnqn="nqn.2014-08.org.nvmexpress:uuid:7a2b6f0e-5b5d-4a53-9d2a-0d6f1c1e0001")
    assert names == ["nvme0n1", "nvme0n3"]
    assert controller(daemon)["ctrlrs"][0]["host"]["nqn"] == "nqn.host"
    assert controller(daemon)["io_queues"] == 4
    assert daemon.rpc("bdev_nvme_detach_controller", name="nvme0", trtype="VFIOUSER",
                      traddr=str(device.socket)) is True


def test_refusals(daemon, device):
    def refuse(code, words, **params):
        error = daemon.error("bdev_nvme_attach_controller",
                             **{"name": "nvme0", "trtype": "VFIOUSER",
                                "traddr": str(device.socket)} | params)
        assert error.code == code and words in error.message, error

    refuse(-22, "'TCP' is not served", trtype="TCP", traddr="127.0.0.1")
    refuse(-22, "'RDMA' is not served", trtype="RDMA", traddr="127.0.0.1")
    refuse(-95, "one path", multipath="multipath")
    refuse(-95, "one path", multipath="failover")
    refuse(-22, "absolute path", traddr="somewhere")
    refuse(-22, "PCI address", trtype="PCIe", traddr="here")
    refuse(-19, "No such device", trtype="PCIe", traddr="0000:ff:1f.7")
    refuse(-22, "must not contain", name="a/b")
    refuse(-22, "63 bytes", name="x" * 64)
    refuse(-22, "not nqn.else", subnqn="nqn.else")
    refuse(-32602, "unknown parameter 'dhchap_key'", dhchap_key="key")
    nothing = daemon.error("bdev_nvme_attach_controller", name="nvme0", trtype="VFIOUSER",
                           traddr=str(device.socket.with_name("nothing")))
    assert nothing.code < 0 and "nothing" in nothing.message
    plain = daemon.folder / "plain"
    plain.write_text("")
    assert daemon.error("bdev_nvme_attach_controller", name="nvme0", trtype="VFIOUSER",
                        traddr=str(plain)).code < 0
    # None of them left anything behind.
    assert daemon.rpc("bdev_nvme_get_controllers") == []
    attach(daemon, device)
    refuse(-17, "File exists")
    refuse(-17, "as NVMe controller nvme0", name="nvme1")
    for method in ("detach_controller", "reset_controller", "enable_controller",
                   "disable_controller", "get_controllers", "get_controller_health_info"):
        error = daemon.error(f"bdev_nvme_{method}", name="none")
        assert error.code == -19 and "No such device" in error.message


def test_device_in_use(daemon, device):
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(device.socket))
        wait_until(lambda: device.stats()["connected"] == "1", "the device has another client")
        error = daemon.error("bdev_nvme_attach_controller", name="nvme0", trtype="VFIOUSER",
                             traddr=str(device.socket))
        assert error.code == -19 and f"{device.socket}: " in error.message, error
        assert "in use by another client" in error.message
    assert daemon.rpc("bdev_nvme_get_controllers") == []
    assert attach(daemon, device) == ["nvme0n1", "nvme0n3"]


def test_not_an_nvme_device(daemon):
    """Somebody else's server: our own, which answers in JSON."""
    error = daemon.error("bdev_nvme_attach_controller", name="nvme0", trtype="VFIOUSER",
                         traddr=str(daemon.socket))
    assert error.code < 0 and str(daemon.socket) in error.message, error
    assert daemon.rpc("bdev_nvme_get_controllers") == []


def test_names_that_are_taken(daemon, device):
    daemon.rpc("bdev_null_create", name="nvme0n3", num_blocks=8, block_size=512)
    error = daemon.error("bdev_nvme_attach_controller", name="nvme0", trtype="VFIOUSER",
                         traddr=str(device.socket))
    assert error.code == -17 and "nvme0n3" in error.message
    assert sorted(bdevs(daemon)) == ["nvme0n3"]
    assert attach(daemon, device, "nvme1") == ["nvme1n1", "nvme1n3"]


def test_health(daemon, device):
    watch = Watch(daemon)
    attach(daemon, device)
    health = daemon.rpc("bdev_nvme_get_controller_health_info", name="nvme0")
    assert health["model_number"] == "vhostd software NVMe device"
    assert health["traddr"] == str(device.socket)
    assert health["temperature_celsius"] == 27 and health["critical_warning"] == 0
    for field in ("available_spare_percentage", "available_spare_threshold_percentage",
                  "percentage_used", "data_units_read", "data_units_written",
                  "host_read_commands", "host_write_commands", "controller_busy_time",
                  "power_cycles", "power_on_hours", "unsafe_shutdowns", "media_errors",
                  "num_err_log_entries", "warning_temperature_time_minutes",
                  "critical_composite_temperature_time_minutes"):
        assert isinstance(health[field], int)
    device.control("set temperature 400")
    watch.wait("nvme_health", "nvme0: critical warning: temperature")
    assert daemon.rpc("bdev_nvme_get_controller_health_info",
                      name="nvme0")["critical_warnings"] == "temperature"
    device.control("set temperature 300")


def test_reset_disable_enable(daemon, device):
    attach(daemon, device)
    assert daemon.rpc("bdev_nvme_reset_controller", name="nvme0") is True
    assert controller(daemon)["resets"] == 1 and state(daemon) == "enabled"
    assert daemon.rpc("bdev_nvme_disable_controller", name="nvme0", cntlid=0) is True
    assert state(daemon) == "disabled"
    assert daemon.error("bdev_nvme_disable_controller", name="nvme0").code == -114
    assert daemon.error("bdev_nvme_reset_controller", name="nvme0").code == -16
    assert daemon.rpc("bdev_nvme_enable_controller", name="nvme0") is True
    assert daemon.error("bdev_nvme_enable_controller", name="nvme0").code == -114
    assert state(daemon) == "enabled"


# ---- configuration

def test_save_load_save(daemon, device):
    empty = save(daemon)
    daemon.rpc("bdev_nvme_set_options", action_on_timeout="reset", timeout_us=7000000,
               timeout_admin_us=0, transport_retry_count=2, io_queue_requests=64,
               keep_alive_timeout_ms=10000, arbitration_burst=0, delay_cmd_submit=True)
    attach(daemon, device, num_io_queues=3, hostnqn="nqn.host")
    daemon.rpc("vhost_create_blk_controller", ctrlr="vm", dev_name="nvme0n1")
    daemon.rpc("bdev_enable_histogram", name="nvme0n3", enable=True)
    saved, before = save(daemon), bdevs(daemon)
    entries = [entry for subsystem in json.loads(saved)["subsystems"]
               for entry in subsystem["config"] or []]
    assert {"method": "bdev_nvme_set_options",
            "params": {"action_on_timeout": "reset", "timeout_us": 7000000,
                       "timeout_admin_us": 10000000, "transport_retry_count": 2,
                       "io_queue_requests": 64}} in entries
    assert {"method": "bdev_nvme_attach_controller",
            "params": {"name": "nvme0", "trtype": "VFIOUSER", "traddr": str(device.socket),
                       "hostnqn": "nqn.host", "num_io_queues": 3}} in entries
    daemon.rpc("vhost_delete_controller", ctrlr="vm")
    daemon.rpc("bdev_nvme_detach_controller", name="nvme0")
    daemon.rpc("bdev_nvme_set_options", action_on_timeout="abort", timeout_us=30000000,
               transport_retry_count=4, io_queue_requests=256)
    assert save(daemon) == empty
    daemon.ctl("load-config", "-", stdin=saved)
    assert save(daemon) == saved
    after = bdevs(daemon)
    assert after == before
    # And over a crash.
    daemon.kill()
    daemon.start()
    assert save(daemon) == saved
    assert bdevs(daemon) == before
    assert controller(daemon)["io_queues"] == 3


def test_options(daemon):
    for params in ({"action_on_timeout": "explode"}, {"timeout_us": -2},
                   {"transport_retry_count": 256}, {"io_queue_requests": 65536},
                   {"no_such_option": 1}):
        assert daemon.error("bdev_nvme_set_options", **params).code == -32602
    empty = save(daemon)
    assert daemon.rpc("bdev_nvme_set_options") is True
    assert save(daemon) == empty


def test_options_before_the_start(device, idle_vhostd):
    daemon = idle_vhostd
    daemon.start("--wait-for-rpc")
    daemon.rpc("bdev_nvme_set_options", timeout_us=1000000)
    daemon.rpc("framework_start_init")
    attach(daemon, device)
    assert '"timeout_us": 1000000' in save(daemon)
    daemon.stop()
    daemon.start()
    assert '"timeout_us": 1000000' in save(daemon)


def test_hotplug_setting(daemon):
    try:
        daemon.rpc("bdev_nvme_set_hotplug", enable=True)
    except Exception as error:  # no such sockets here
        pytest.skip(str(error))
    assert '"period_us": 100000' in save(daemon)
    saved = save(daemon)
    daemon.rpc("bdev_nvme_set_hotplug", enable=True, period_us=1000000)
    assert save(daemon) != saved
    daemon.ctl("load-config", "-", stdin=saved)
    assert save(daemon) == saved
    daemon.kill()
    daemon.start()
    assert save(daemon) == saved
    daemon.rpc("bdev_nvme_set_hotplug", enable=False)
    assert "hotplug" not in save(daemon)
    assert daemon.error("bdev_nvme_set_hotplug", enable=True, period_us=10000001).code == -32602


# ---- devices that come and go

def test_missing_at_the_start(folder, idle_vhostd):
    """The daemon comes up, says so, and all is there when the device is."""
    daemon, device = idle_vhostd, NvmeDevice(folder)
    device.start()
    daemon.start()
    attach(daemon, device)
    daemon.rpc("vhost_create_blk_controller", ctrlr="vm", dev_name="nvme0n1")
    daemon.rpc("vhost_controller_set_coalescing", ctrlr="vm", delay_base_us=20,
               iops_threshold=70000)
    daemon.rpc("bdev_enable_histogram", name="nvme0n1", enable=True)
    saved = save(daemon)
    daemon.stop()
    device.stop()
    journal = daemon.state.read_text()

    daemon.start()
    assert "nvme nvme0: not there" in daemon.log_text()
    watch = Watch(daemon)
    watch.next = 1
    watch.wait("nvme_controller_state", "nvme0: missing: ")
    assert bdevs(daemon) == {} and state(daemon) == "reconnect_is_delayed"
    assert str(device.socket) in controller(daemon)["error"]
    failed = [entry["name"] for entry in daemon.rpc("framework_get_state")["failed"]]
    assert failed == ["nvme0n1", "vm", "vm"]
    assert daemon.error("bdev_nvme_reset_controller", name="nvme0").code == -19
    assert daemon.state.read_text() == journal

    device.start()
    wait_for_bdevs(daemon, "nvme0n1")
    wait_for_vhost(daemon, "vm")
    wait_until(lambda: not daemon.rpc("framework_get_state")["failed"], "nothing is left to retry")
    assert save(daemon) == saved
    wait_until(lambda: daemon.state.read_text() == journal, "the journal is as it was")
    daemon.stop()
    device.stop()


def test_late_at_the_start(folder, idle_vhostd):
    """A device that takes longer than the start waits for it: what needs it comes with it."""
    daemon, device = idle_vhostd, NvmeDevice(folder)
    device.start()
    daemon.start()
    attach(daemon, device)
    daemon.rpc("vhost_create_blk_controller", ctrlr="vm", dev_name="nvme0n1")
    daemon.stop()
    device.control("set cap-to 120")
    device.control("set ready-ms 13000")
    daemon.start()
    failed = [entry["name"] for entry in daemon.rpc("framework_get_state")["failed"]]
    assert failed == ["vm"]
    wait_for_vhost(daemon, "vm")
    wait_until(lambda: not daemon.rpc("framework_get_state")["failed"], "nothing is left to retry")
    daemon.stop()
    device.stop()


def test_missing_one_is_detached(folder, idle_vhostd):
    daemon, device = idle_vhostd, NvmeDevice(folder)
    device.start()
    daemon.start()
    empty = save(daemon)
    attach(daemon, device)
    daemon.stop()
    device.stop()
    daemon.start()
    assert daemon.rpc("bdev_nvme_detach_controller", name="nvme0") is True
    assert save(daemon) == empty
    daemon.stop()
    daemon.start()
    assert daemon.rpc("bdev_nvme_get_controllers") == []


def test_server_that_is_started_again(folder, vhostd):
    device = NvmeDevice(folder, "nvme", *TWO)
    device.start()
    attach(vhostd, device)
    saved, uuid = save(vhostd), bdevs(vhostd)["nvme0n1"]["uuid"]
    for end in (device.kill, device.stop):
        watch = Watch(vhostd)
        end()
        watch.wait("nvme_controller_state", "nvme0: missing")
        wait_for_bdevs(vhostd)
        assert save(vhostd) == saved
        device.start()
        wait_for_bdevs(vhostd, "nvme0n1", "nvme0n3")
        assert bdevs(vhostd)["nvme0n1"]["uuid"] == uuid
        assert state(vhostd) == "enabled"
    vhostd.stop()
    device.stop()


def test_another_device_at_that_address(folder, vhostd):
    """subnqn keeps a stranger's data from a guest."""
    device = NvmeDevice(folder)
    device.start()
    subnqn = "nqn.2014-08.org.nvmexpress:uuid:7a2b6f0e-5b5d-4a53-9d2a-0d6f1c1e0001"
    attach(vhostd, device, subnqn=subnqn)
    assert f'"subnqn": "{subnqn}"' in save(vhostd)
    vhostd.stop()
    device.stop()


@pytest.mark.parametrize("how", ["disconnect", "remove", "request-removal"])
def test_hot_removal(daemon, device, how):
    attach(daemon, device)
    watch = Watch(daemon)
    device.control("set listen 0")
    device.control(how)
    if how == "remove":     # seen when a register is read
        daemon.error("bdev_nvme_reset_controller", name="nvme0")
    watch.wait("nvme_controller_state", "nvme0: missing")
    wait_for_bdevs(daemon)
    if how == "remove":
        device.control("replug")
    device.control("set listen 1")
    wait_for_bdevs(daemon, "nvme0n1", "nvme0n3")


def test_namespaces_change(daemon, device):
    attach(daemon, device)
    watch = Watch(daemon)
    daemon.rpc("vhost_create_blk_controller", ctrlr="vm", dev_name="nvme0n1")
    device.control("ns add 2 null 1000000 4096")
    wait_for_bdevs(daemon, "nvme0n1", "nvme0n2", "nvme0n3")
    assert bdevs(daemon)["nvme0n2"]["num_blocks"] == 1000000
    device.control("ns resize 1 16384")
    watch.wait("bdev_resize", "nvme0n1")
    assert bdevs(daemon)["nvme0n1"]["num_blocks"] == 16384
    device.control("ns remove 3")
    wait_for_bdevs(daemon, "nvme0n1", "nvme0n2")
    device.control("ns remove 1")
    device.control("ns remove 2")
    wait_for_bdevs(daemon)
    assert state(daemon) == "enabled" and controller(daemon)["bdevs"] == []
    device.control("ns add 1 memory 4096 512")
    wait_for_bdevs(daemon, "nvme0n1")
    assert bdevs(daemon)["nvme0n1"]["num_blocks"] == 4096


def test_detach_of_a_disk_in_use(daemon, device):
    attach(daemon, device)
    daemon.rpc("vhost_create_blk_controller", ctrlr="vm", dev_name="nvme0n1")
    assert daemon.rpc("bdev_nvme_detach_controller", name="nvme0") is True
    assert bdevs(daemon) == {}
    wait_for_vhost(daemon, "vm")    # without a device


def test_many_times(daemon, device):
    """Nothing is left of a controller that was detached."""
    for _ in range(50):
        assert attach(daemon, device) == ["nvme0n1", "nvme0n3"]
        daemon.rpc("bdev_nvme_detach_controller", name="nvme0")
    wait_until(lambda: device.stats()["connected"] == "0", "the connection is gone")
    stats = device.stats()
    assert stats["maps"] == "0" and stats["shutdowns"] == "50"
    assert stats["unsafe_shutdowns"] == "0"
    assert daemon.log_text().count("ERROR") == 0


# ---- devices that do not do well

def test_not_ready_in_time(folder, vhostd):
    device = NvmeDevice(folder, "nvme", "ns add 1 memory 8192 512", "set cap-to 1", "set ready 0")
    device.start()
    error = vhostd.error("bdev_nvme_attach_controller", name="nvme0", trtype="VFIOUSER",
                         traddr=str(device.socket))
    assert error.code == -110, error
    assert vhostd.rpc("bdev_nvme_get_controllers") == []
    vhostd.stop()
    device.stop()


def test_controller_fatal_status(daemon, device):
    attach(daemon, device)
    device.control("fatal")
    wait_until(lambda: controller(daemon).get("resets", 0) > 0 and state(daemon) == "enabled",
               "the controller was reset")
    assert sorted(bdevs(daemon)) == ["nvme0n1", "nvme0n3"]


def test_lost_admin_command(daemon, device):
    daemon.rpc("bdev_nvme_set_options", timeout_admin_us=300000)
    attach(daemon, device)
    device.control("fault lose queue=0 opcode=2")   # Get Log Page
    error = daemon.error("bdev_nvme_get_controller_health_info", name="nvme0")
    assert error.code == -110, error
    wait_until(lambda: state(daemon) == "enabled", "the controller works")
    assert daemon.rpc("bdev_nvme_get_controller_health_info", name="nvme0")
