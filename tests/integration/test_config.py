# SPDX-License-Identifier: BSD-3-Clause
"""Configuration: saved, loaded, brought back after a restart or a crash."""

import json
import stat

import pytest

FAILED = 1


def build(daemon):
    """Something of every kind."""
    image, other = daemon.image("a.img"), daemon.image("b.img")
    daemon.rpc("bdev_malloc_create", num_blocks=2048, block_size=512)
    daemon.rpc("bdev_malloc_create", num_blocks=256, block_size=4096, name="m")
    daemon.rpc("bdev_null_create", name="n", num_blocks=1 << 30, block_size=512)
    daemon.rpc("bdev_aio_create", name="a", filename=str(image), block_size=4096, readonly=True)
    daemon.rpc("bdev_uring_create", name="u", filename=str(other), sqpoll=True, sqpoll_idle_ms=3)
    daemon.rpc("bdev_null_resize", name="n", new_size=1 << 20)
    daemon.rpc("bdev_enable_histogram", name="n", enable=True)
    daemon.rpc("bdev_enable_histogram", name="m", enable=True)
    daemon.rpc("bdev_enable_histogram", name="m", enable=False)
    daemon.rpc("bdev_set_options", bdev_io_pool_size=65535)
    daemon.rpc("bdev_error_create", base_name="m")
    daemon.rpc("bdev_delay_create", name="d", base_bdev_name="EE_m", avg_read_latency=1,
               p99_read_latency=2, avg_write_latency=3, p99_write_latency=4)
    daemon.rpc("bdev_delay_update_latency", delay_bdev_name="d", latency_type="p99_write",
               latency_us=5)
    daemon.rpc("bdev_set_qos_limit", name="d", rw_ios_per_sec=12345, w_mbytes_per_sec=6)
    daemon.rpc("bdev_set_qos_limit", name="n", r_mbytes_per_sec=7)
    daemon.rpc("vhost_create_blk_controller", ctrlr="c0", dev_name="Malloc0")
    daemon.rpc("vhost_create_blk_controller", ctrlr="c1", dev_name="a", readonly=True,
               cpumask="0x1")
    daemon.rpc("vhost_create_blk_controller", ctrlr="c2", dev_name="u", packed_ring=True)
    daemon.rpc("vhost_controller_set_coalescing", ctrlr="c1", delay_base_us=50,
               iops_threshold=100000)


def clear(daemon):
    for name in ("c0", "c1", "c2"):
        daemon.rpc("vhost_delete_controller", ctrlr=name)
    for kind, name in (("delay", "d"), ("error", "EE_m"), ("malloc", "Malloc0"),
                       ("malloc", "m"), ("null", "n"), ("aio", "a"), ("uring", "u")):
        daemon.rpc(f"bdev_{kind}_delete", name=name)


def view(daemon):
    """All that clients see of the configuration."""
    return daemon.rpc("bdev_get_bdevs"), daemon.rpc("vhost_get_controllers")


def save(daemon):
    return daemon.ctl("save-config").stdout


def as_spdk_saves(daemon):
    """What rpc.py save_config makes of the daemon."""
    with daemon.connect() as connection:
        return {"subsystems": [
            {"subsystem": entry["subsystem"],
             "config": connection.call("framework_get_config", name=entry["subsystem"])}
            for entry in connection.call("framework_get_subsystems")]}


def test_save_load_save(vhostd):
    build(vhostd)
    saved, before = save(vhostd), view(vhostd)
    assert json.loads(saved) == as_spdk_saves(vhostd)
    clear(vhostd)
    empty = save(vhostd)
    assert empty != saved
    file = vhostd.folder / "saved.json"
    file.write_text(saved)
    vhostd.ctl("load-config", str(file))
    assert save(vhostd) == saved
    assert view(vhostd) == before
    clear(vhostd)
    vhostd.ctl("load-config", "-", stdin=saved)
    assert save(vhostd) == saved


def test_save_to_a_file(vhostd):
    build(vhostd)
    file = vhostd.folder / "saved.json"
    assert vhostd.ctl("save-config", "-o", str(file)).stdout == ""
    assert file.read_text() == save(vhostd)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = set(vhostd.folder.iterdir())
    done = vhostd.ctl("save-config", "-o", str(vhostd.folder / "none" / "saved.json"),
                      status=FAILED)
    assert "none/saved.json" in done.stderr
    assert set(vhostd.folder.iterdir()) == before


def test_load_stops_at_the_first_error(vhostd):
    null = {"num_blocks": 8, "block_size": 512}
    document = {"subsystems": [
        {"subsystem": "log", "config": None},
        {"subsystem": "bdev", "config": [
            {"method": "bdev_null_create", "params": {"name": "a"} | null},
            {"method": "bdev_null_create", "params": {"name": "a"} | null},
            {"method": "bdev_null_create", "params": {"name": "b"} | null}]}]}
    done = vhostd.ctl("load-config", "-", stdin=json.dumps(document), status=FAILED)
    assert "subsystem bdev, entry 2" in done.stderr and "File exists (-17)" in done.stderr
    assert [bdev["name"] for bdev in vhostd.rpc("bdev_get_bdevs")] == ["a"]


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"subsystems":{}}', '{"subsystems":[1]}',
    '{"subsystems":[{"subsystem":"bdev"}]}', '{"subsystems":[{"subsystem":"bdev","config":[1]}]}',
    '{"subsystems":[{"subsystem":"bdev","config":[{"method":1}]}]}',
    '{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_null_create","params":[]}]}]}',
    '{"subsystems":[{"subsystem":"bdev","config":[{"method":"no_such_method"}]}]}'])
def test_load_bad_documents(shared, text):
    file = shared.folder / "bad.json"
    file.write_text(text)
    done = shared.ctl("load-config", str(file), status=FAILED)
    assert str(file) in done.stderr
    shared.ctl("load-config", str(shared.folder / "none.json"), status=FAILED)


def test_a_later_entry_is_checked_before_the_first_is_made(shared):
    document = {"subsystems": [{"subsystem": "bdev", "config": [
        {"method": "bdev_null_create", "params": {"name": "a", "num_blocks": 8, "block_size": 512}},
        {"params": {}}]}]}
    shared.ctl("load-config", "-", stdin=json.dumps(document), status=FAILED)
    assert shared.rpc("bdev_get_bdevs") == []


# ---- across restarts ----

def test_restart_and_crash(vhostd):
    build(vhostd)
    saved, before = save(vhostd), view(vhostd)
    vhostd.kill()
    vhostd.start()
    assert save(vhostd) == saved and view(vhostd) == before
    vhostd.stop()
    vhostd.start()
    assert save(vhostd) == saved and view(vhostd) == before
    clear(vhostd)
    vhostd.kill()
    vhostd.start()
    assert view(vhostd) == ([], [])


def test_what_was_chosen_for_reactors_comes_back(vhostd):
    def chosen():
        return (vhostd.rpc("framework_get_reactors")["reactors"][0]["mode"],
                vhostd.rpc("framework_get_scheduler")["scheduler_name"])

    assert vhostd.rpc("framework_get_config", name="scheduler") == []
    before = chosen()
    vhostd.rpc("framework_set_scheduler", name="static")
    vhostd.rpc("framework_set_mode", mode="adaptive")
    vhostd.rpc("framework_set_mode", mode="interrupt", core=0)
    config = vhostd.rpc("framework_get_config", name="scheduler")
    assert config == [
        {"method": "framework_set_scheduler", "params": {"name": "static"}},
        {"method": "framework_set_mode", "params": {"mode": "adaptive"}},
        {"method": "framework_set_mode", "params": {"mode": "interrupt", "core": 0}}]
    assert chosen() == ("interrupt", "static") != before
    saved = save(vhostd)
    vhostd.kill()
    vhostd.start()
    assert chosen() == ("interrupt", "static")
    assert "mode interrupt," in vhostd.log_text().splitlines()[-1]
    assert save(vhostd) == saved
    vhostd.ctl("load-config", "-", stdin=saved)
    assert save(vhostd) == saved
    # One mode for all is chosen over what single cores had, and back to what there was before.
    vhostd.rpc("framework_set_mode", mode=before[0])
    vhostd.rpc("framework_set_scheduler", name=before[1])
    assert vhostd.rpc("framework_get_config", name="scheduler") == [
        {"method": "framework_set_scheduler", "params": {"name": before[1]}},
        {"method": "framework_set_mode", "params": {"mode": before[0]}}]
    assert chosen() == before


def test_each_answer_is_durable(vhostd):
    """Killed right after an answer, the daemon still knows what it said."""
    for i in range(5):
        vhostd.rpc("bdev_null_create", name=f"n{i}", num_blocks=8, block_size=512)
        vhostd.kill()
        vhostd.start()
        assert len(vhostd.rpc("bdev_get_bdevs")) == i + 1


def test_what_cannot_be_made_is_kept_until_it_is_deleted(vhostd):
    image, other = vhostd.image("a.img"), vhostd.image("b.img")
    vhostd.rpc("bdev_uring_create", name="u", filename=str(image))
    vhostd.rpc("bdev_aio_create", name="a", filename=str(other))
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="u")
    saved = vhostd.state.read_text()
    vhostd.stop()
    image.unlink()
    vhostd.start()
    assert [bdev["name"] for bdev in vhostd.rpc("bdev_get_bdevs")] == ["a"]
    assert vhostd.state.read_text() == saved
    for method in ("bdev_null_delete", "bdev_malloc_delete"):
        assert vhostd.error(method, name="u").code == -19
    assert vhostd.error("bdev_uring_delete", name="v").code == -19
    assert vhostd.error("vhost_delete_controller", ctrlr="u").code == -19
    assert vhostd.state.read_text() == saved
    assert vhostd.rpc("vhost_delete_controller", ctrlr="c") is True
    assert vhostd.rpc("bdev_uring_delete", name="u") is True
    assert vhostd.error("bdev_uring_delete", name="u").code == -19
    kept = [json.loads(vhostd.state.read_text())["subsystems"][i]["config"] for i in (0, 1)]
    assert [call["params"]["name"] for call in kept[0]] == ["a"] and kept[1] == []
    vhostd.kill()
    vhostd.start()
    assert "could not be replayed" not in vhostd.log_text().rsplit("given up", 1)[1]


@pytest.mark.parametrize("first", ["blk", "scsi"])
def test_disk_of_both_kinds_of_controllers_in_an_old_state(vhostd, first):
    """The later one is kept, as what else cannot be made, and the rest starts."""
    for name in "mno":
        vhostd.rpc("bdev_null_create", name=name, num_blocks=2048, block_size=512)
    for kind in (("blk", "scsi") if first == "blk" else ("scsi", "blk")):
        if kind == "blk":
            vhostd.rpc("vhost_create_blk_controller", ctrlr="blk", dev_name="m")
        else:
            vhostd.rpc("vhost_create_scsi_controller", ctrlr="scsi")
            vhostd.rpc("vhost_scsi_controller_add_target", ctrlr="scsi", scsi_target_num=0, bdev_name="n")
    vhostd.rpc("vhost_create_blk_controller", ctrlr="last", dev_name="o")
    vhostd.stop()
    document = json.loads(vhostd.state.read_text())
    add, = (entry for subsystem in document["subsystems"] for entry in subsystem["config"] or []
            if entry["method"] == "vhost_scsi_controller_add_target")
    add["params"]["bdev_name"] = "m"
    vhostd.state.write_text(json.dumps(document))
    vhostd.start()
    failed = vhostd.rpc("framework_get_state")["failed"]
    later = {"blk": ["vhost_scsi_controller_add_target", "vhost_start_scsi_controller"],
             "scsi": ["vhost_create_blk_controller"]}[first]
    assert [entry["method"] for entry in failed] == later
    assert "block device m is in use by" in vhostd.log_text()
    assert (vhostd.folder / first).is_socket() and (vhostd.folder / "last").is_socket()
    assert json.loads(vhostd.state.read_text()) == document
    # The one that is there goes, and the next start makes the other one.
    vhostd.rpc("vhost_delete_controller", ctrlr=first)
    vhostd.stop()
    vhostd.start()
    assert vhostd.rpc("framework_get_state")["failed"] == []
    assert {entry["ctrlr"] for entry in vhostd.rpc("vhost_get_controllers")} == {"blk", "scsi", "last"} - {first}


def test_coalescing_of_a_controller_that_was_missing(vhostd):
    """What was set on a controller is kept as long as the controller, and given up with it."""
    image = vhostd.image("a.img")
    vhostd.rpc("bdev_aio_create", name="a", filename=str(image))
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="a")
    vhostd.rpc("vhost_controller_set_coalescing", ctrlr="c", delay_base_us=10, iops_threshold=200)
    away = image.rename(image.with_name("away"))
    for _ in range(2):
        vhostd.stop()
        vhostd.start()
        failed = vhostd.rpc("framework_get_state")["failed"]
        assert [(entry["subsystem"], entry["name"]) for entry in failed] == \
            [("bdev", "a"), ("vhost", "c"), ("vhost", "c")]
    away.rename(image)
    vhostd.stop()
    vhostd.start()
    controller, = vhostd.rpc("vhost_get_controllers")
    assert (controller["delay_base_us"], controller["iops_threshold"]) == (10, 200)
    assert vhostd.rpc("framework_get_state")["failed"] == []
    # Missing again, made again by hand, and set to something else: that is what counts.
    image.rename(away)
    vhostd.stop()
    vhostd.start()
    away.rename(image)
    vhostd.rpc("bdev_aio_create", name="a", filename=str(image))
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="a")
    vhostd.rpc("vhost_controller_set_coalescing", ctrlr="c", delay_base_us=20, iops_threshold=300)
    assert vhostd.rpc("framework_get_state")["failed"] == []
    image.rename(away)
    vhostd.stop()
    vhostd.start()
    vhostd.rpc("vhost_delete_controller", ctrlr="c")
    vhostd.rpc("bdev_aio_delete", name="a")
    assert vhostd.rpc("framework_get_state")["failed"] == []
    assert json.loads(vhostd.state.read_text())["subsystems"] == \
        json.loads(save(vhostd))["subsystems"]


def test_device_that_was_named_by_its_uuid(vhostd):
    """A disk that a client named by its UUID stays that one: another of the same name is not taken instead."""
    uuids = [f"12345678-0000-4000-8000-00000000000{i}" for i in range(2)]
    vhostd.rpc("bdev_malloc_create", name="m", num_blocks=64, block_size=512, uuid=uuids[0])
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name=uuids[0])
    vhostd.stop()
    vhostd.start()
    controller, = vhostd.rpc("vhost_get_controllers")
    assert controller["backend_specific"]["block"]["bdev"] == "m"
    vhostd.stop()
    text = vhostd.state.read_text()
    assert f'"uuid": "{uuids[0]}"' in text
    vhostd.state.write_text(text.replace(f'"uuid": "{uuids[0]}"', f'"uuid": "{uuids[1]}"'))
    vhostd.start()
    assert [entry["name"] for entry in vhostd.rpc("framework_get_state")["failed"]] == ["c"]
    assert vhostd.rpc("vhost_get_controllers") == []


def test_setting_of_what_was_made_again_after_others(vhostd):
    """What is kept for a controller comes after it, wherever it is made again."""
    image = vhostd.image("a.img")
    vhostd.rpc("bdev_aio_create", name="a", filename=str(image))
    vhostd.rpc("bdev_enable_histogram", name="a", enable=True)
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="a")
    vhostd.rpc("vhost_controller_set_coalescing", ctrlr="c", delay_base_us=10, iops_threshold=200)
    vhostd.stop()
    away = image.rename(image.with_name("away"))
    vhostd.start()
    away.rename(image)
    for name in ("n0", "n1", "n2"):
        vhostd.rpc("bdev_null_create", name=name, num_blocks=8, block_size=512)
        vhostd.rpc("vhost_create_blk_controller", ctrlr=f"on-{name}", dev_name=name)
    vhostd.rpc("bdev_aio_create", name="a", filename=str(image))
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="a")
    vhostd.stop()
    vhostd.start()
    assert vhostd.rpc("framework_get_state")["failed"] == []
    controller, = vhostd.rpc("vhost_get_controllers", name="c")
    assert (controller["delay_base_us"], controller["iops_threshold"]) == (10, 200)
    assert vhostd.rpc("bdev_get_histogram", name="a")["count"] == 0
    assert json.loads(vhostd.state.read_text())["subsystems"] == \
        json.loads(save(vhostd))["subsystems"]


def test_failed_setting_is_given_up_when_it_is_set_to_the_default(vhostd):
    image = vhostd.image("a.img")
    vhostd.rpc("bdev_aio_create", name="a", filename=str(image))
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="a")
    default, = vhostd.rpc("vhost_get_controllers")
    vhostd.rpc("vhost_controller_set_coalescing", ctrlr="c", delay_base_us=10, iops_threshold=200)
    vhostd.stop()
    away = image.rename(image.with_name("away"))
    vhostd.start()
    away.rename(image)
    vhostd.rpc("bdev_aio_create", name="a", filename=str(image))
    vhostd.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="a")
    vhostd.rpc("vhost_controller_set_coalescing", ctrlr="c",
               **{key: default[key] for key in ("delay_base_us", "iops_threshold")})
    assert vhostd.rpc("framework_get_state")["failed"] == []


def test_mode_of_a_core_that_has_no_reactor(vhostd):
    """It is kept, until a mode is chosen for all."""
    call = {"method": "framework_set_mode", "params": {"mode": "poll", "core": 200}}
    unknown = {"method": "framework_set_scheduler", "params": {"name": "later"}}
    vhostd.rpc("framework_set_mode", mode="adaptive")
    vhostd.stop()
    document = json.loads(vhostd.state.read_text())
    configs = {entry["subsystem"]: entry["config"] for entry in document["subsystems"]}
    configs["scheduler"] += [call, unknown]
    vhostd.state.write_text(json.dumps(document))
    vhostd.start()
    assert len(vhostd.rpc("framework_get_state")["failed"]) == 2
    vhostd.rpc("framework_set_mode", mode="interrupt", core=0)
    assert len(vhostd.rpc("framework_get_state")["failed"]) == 2
    vhostd.rpc("framework_set_mode", mode="interrupt")
    vhostd.rpc("framework_set_scheduler", name="static")
    assert vhostd.rpc("framework_get_state")["failed"] == []
    assert json.loads(vhostd.state.read_text())["subsystems"] == \
        json.loads(save(vhostd))["subsystems"]


def test_histogram_of_what_could_not_be_made(vhostd):
    """It stays on for a disk that is missing once, and goes with the disk when that is deleted."""
    image = vhostd.image("a.img")
    vhostd.rpc("bdev_uring_create", name="a", filename=str(image))
    vhostd.rpc("bdev_enable_histogram", name="a", enable=True)
    vhostd.stop()
    image.rename(image.with_suffix(".aside"))
    vhostd.start()
    assert vhostd.error("bdev_enable_histogram", name="a", enable=True).code == -19
    vhostd.stop()
    image.with_suffix(".aside").rename(image)
    vhostd.start()
    assert vhostd.rpc("bdev_get_histogram", name="a")["count"] == 0
    saved = save(vhostd)
    vhostd.stop()
    image.unlink()
    vhostd.start()
    assert vhostd.rpc("bdev_enable_histogram", name="a", enable=False) is True
    assert vhostd.error("bdev_enable_histogram", name="a", enable=False).code == -19
    assert vhostd.rpc("bdev_uring_delete", name="a") is True
    assert "bdev_" in saved and "bdev_" not in vhostd.state.read_text()
    vhostd.image("a.img")
    vhostd.ctl("load-config", "-", stdin=saved)
    vhostd.stop()
    image.unlink()
    vhostd.start()
    assert vhostd.rpc("bdev_uring_delete", name="a") is True
    assert "bdev_" not in vhostd.state.read_text()


def test_limits_and_filters_of_what_could_not_be_made(vhostd):
    """They come back with the disk below, and each can be given up while that is missing."""
    image = vhostd.image("a.img")
    latencies = {f"{kind}_latency": 7 for kind in ("avg_read", "p99_read", "avg_write", "p99_write")}
    vhostd.rpc("bdev_uring_create", name="a", filename=str(image))
    vhostd.rpc("bdev_error_create", base_name="a")
    vhostd.rpc("bdev_delay_create", name="d", base_bdev_name="EE_a", **latencies)
    vhostd.rpc("bdev_set_qos_limit", name="d", rw_ios_per_sec=77)
    before = view(vhostd)
    vhostd.stop()
    away = image.rename(image.with_name("away"))
    vhostd.start()
    assert vhostd.rpc("bdev_get_bdevs") == []
    away.rename(image)
    vhostd.stop()
    vhostd.start()
    assert vhostd.rpc("framework_get_state")["failed"] == []
    assert view(vhostd) == before
    vhostd.stop()
    image.unlink()
    vhostd.start()
    assert vhostd.rpc("bdev_set_qos_limit", name="d", rw_ios_per_sec=0) is True
    assert vhostd.error("bdev_set_qos_limit", name="d", rw_ios_per_sec=0).code == -19
    assert vhostd.rpc("bdev_delay_delete", name="d") is True
    assert vhostd.rpc("bdev_error_delete", name="EE_a") is True
    assert vhostd.rpc("bdev_uring_delete", name="a") is True
    assert "bdev_" not in vhostd.state.read_text()


def test_an_answer_is_durable_also_after_a_failed_save(vhostd):
    """What exists although it could not be saved is saved when a client asks for it once more."""
    null = {"num_blocks": 8, "block_size": 512}
    vhostd.rpc("bdev_null_create", name="a", **null)
    state, aside = vhostd.state, vhostd.folder / "aside.json"
    state.rename(aside)
    state.mkdir()                       # a file cannot be renamed over it
    error = vhostd.error("bdev_null_create", name="b", **null)
    assert error.code < 0 and error.code != -17 and str(state) in error.message
    again = vhostd.error("bdev_null_create", name="b", **null)
    assert (again.code, again.message) == (error.code, error.message)
    state.rmdir()
    aside.rename(state)
    assert vhostd.error("bdev_null_create", name="b", **null).code == -17
    vhostd.kill()
    vhostd.start()
    assert [bdev["name"] for bdev in vhostd.rpc("bdev_get_bdevs")] == ["a", "b"]


def test_config_file(idle_vhostd):
    idle_vhostd.start()
    build(idle_vhostd)
    file = idle_vhostd.folder / "config.json"
    idle_vhostd.ctl("save-config", "-o", str(file))
    saved = save(idle_vhostd)
    idle_vhostd.stop()
    idle_vhostd.state.unlink()
    idle_vhostd.start("-c", str(file))
    assert save(idle_vhostd) == saved


def test_wait_for_rpc(idle_vhostd):
    idle_vhostd.start("--wait-for-rpc")
    methods = idle_vhostd.rpc("rpc_get_methods", current=True)
    assert "framework_start_init" in methods and "bdev_get_bdevs" not in methods
    error = idle_vhostd.error("bdev_get_bdevs")
    assert error.code == -1 and "after framework_start_init" in error.message
    document = {"subsystems": [{"subsystem": "bdev", "config": [
        {"method": "bdev_null_create", "params": {"name": "a", "num_blocks": 8, "block_size": 512}},
        {"method": "log_set_level", "params": {"level": "INFO"}}]}]}
    with idle_vhostd.connect() as waiting:
        waiting.send(b'{"id":1,"method":"framework_wait_init"}')
        idle_vhostd.ctl("load-config", "-", stdin=json.dumps(document))
        assert waiting.next()["result"] is True
    assert idle_vhostd.rpc("bdev_get_bdevs")[0]["name"] == "a"
    assert idle_vhostd.rpc("log_get_level") == "INFO"
    assert idle_vhostd.error("framework_start_init").code == -1


def test_stop_before_the_start(idle_vhostd):
    idle_vhostd.start("--wait-for-rpc")
    with idle_vhostd.connect() as waiting:
        waiting.send(b'{"id":1,"method":"framework_wait_init"}')
        idle_vhostd.rpc("spdk_get_version")
        idle_vhostd.stop()
        assert waiting.next()["error"]["code"] == -125
