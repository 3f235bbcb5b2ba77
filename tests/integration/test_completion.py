# SPDX-License-Identifier: BSD-3-Clause
"""Completion of the programs' command lines in bash."""
import grp
import os
import pwd
import re
import subprocess

import pytest
from harness import DEADLINE, ROOT, VHOSTCTL, VHOSTD

SCRIPT = f"""
source {ROOT}/packaging/"${{1##*/}}".bash
compopt() {{ echo compopt "$@" >&2; }}
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_"${{1##*/}}"
((${{#COMPREPLY[@]}} == 0)) || printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FILES = "compopt -o filenames\n"
NO_SPACE = "compopt -o nospace\n"


def ask(program, *words, cwd=ROOT):
    """What is offered for the last word, and with which options of compopt."""
    done = subprocess.run(["bash", "--norc", "-u", "-c", SCRIPT, "bash", str(program), *words], capture_output=True,
                          text=True, check=True, timeout=DEADLINE, cwd=cwd, stdin=subprocess.DEVNULL)
    assert done.stderr in ("", FILES, NO_SPACE), done.stderr
    return set(done.stdout.splitlines()), done.stderr


def complete(*words, cwd=ROOT):
    """Of vhostctl: what is offered for the last word, and whether it is files."""
    offered, options = ask(VHOSTCTL, *words, cwd=cwd)
    return offered, options == FILES


@pytest.mark.parametrize("words, offered", [
    (["bdev_null_c"], {"bdev_null_create"}),
    (["--json", "-t", "5", "load-"], {"load-config"}),
    (["bdev_nvme_get_controller_h"], {"bdev_nvme_get_controller_health_info"}),
    (["nvme", ""], {"list", "bind", "unbind"}),
    (["libvirt", "a"], {"attach"}),
    (["libvirt", "attach", "vm1", "c", "--per"], {"--persistent"}),
    (["provision", "--si"], {"--size"}),
    (["trace", "vm1", "--f"], {"--follow"}),
    (["bench", "vm1", "--"], {f"--{name}" for name in "rw write bs qd queues threads cpu seconds ramp packed event-idx "
                              "poll svg help json".split()}),
    (["top", "--"], {f"--{name}" for name in "once interval sort reverse filter help json".split()}),
    (["--so"], {"--socket"}),
    (["-"], {"--help", "--json", "--markdown", "--socket", "--timeout", "--version"}),
    (["bdev_null_delete", ""], {"--name", "--help", "--json"}),
    (["bdev-null-delete", "--n"], {"--name"}),
    (["vhost_create_blk_controller", "--readonly", ""], {"true", "false"}),
    (["vhost_create_blk_controller", "--readonly", "=", "t"], {"true"}),
    (["vhost_create_blk_controller", "--readonly", "--dev"], {"--dev_name"}),
    (["save-config", "-"], {"-o", "--help", "--json"}),
    (["call", "spdk_get"], {"spdk_get_version"}),
    (["bdev_null_create", "--name", ""], set()),
    (["bdev_null_create", "--num_blocks", ""], set()),
    (["no_such_method", "--x"], set()),
    (["a/b.*[", "$(false)", "--x"], set()),
])
def test_words(words, offered):
    assert complete(*words) == (offered, False)


def test_methods():
    methods = subprocess.run([VHOSTCTL, "--markdown"], capture_output=True, text=True, check=True).stdout
    methods = {line[4:] for line in methods.splitlines() if line.startswith("### ")}
    offered, _ = complete("")
    assert methods < offered
    assert {"call", "nvme", "save-config"} <= offered - methods
    assert not any(" " in word for word in offered)


@pytest.mark.parametrize("words", [
    ["-s", ""], ["--socket", "=", ""], ["load-config", ""], ["save-config", "-o", ""],
    ["bdev_uring_create", "--filename", ""],
])
def test_files(words, tmp_path):
    (tmp_path / "disk 0.img").touch()
    assert complete(*words[:-1], "di", cwd=tmp_path) == ({"disk 0.img"}, True)


def test_names(shared, folder):
    """The daemon is asked for them; a name is a word, whatever is in it."""
    hostile = "$(touch${IFS}touched)"
    for name in ("null0", "null1", hostile):
        shared.rpc("bdev_null_create", name=name, num_blocks=8, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="vm1", dev_name="null1")
    daemon = ["-s", str(shared.socket)]
    assert complete(*daemon, "bdev_null_delete", "--name", "null") == ({"null0", "null1"}, False)
    assert complete(*daemon, "vhost_create_blk_controller", "--dev_name", "=", "null1") == ({"null1"}, False)
    assert complete(*daemon, "vhost_delete_controller", "--ctrlr", "") == ({"vm1"}, False)
    assert complete(*daemon, "trace", "") == ({"vm1"}, False)
    assert complete(*daemon, "trace", "vm1", "--count", "") == (set(), False)
    assert complete(*daemon, "bench", "") == ({"vm1"}, False)
    for words in (["xml", ""], ["attach", "d", "v"], ["detach", "d", ""], ["check", "d", ""]):
        assert complete(*daemon, "libvirt", *words) == ({"vm1"}, False)
    offered, _ = complete(*daemon, "bdev_null_delete", "--name", "$", cwd=folder)
    word, = offered
    assert subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True).stdout == hostile
    assert not (folder / "touched").exists()
    assert complete("-s", str(folder / "none"), "bdev_null_delete", "--name", "") == (set(), False)


def test_domains(tmp_path, monkeypatch):
    virsh = tmp_path / "virsh"
    virsh.write_text("#!/bin/sh\nprintf '%s\\n' guest1 guest2 other ''\n")
    virsh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for words in (["libvirt", "attach"], ["libvirt", "detach"], ["libvirt", "check"], ["provision", "--domain"]):
        assert complete(*words, "guest") == ({"guest1", "guest2"}, False)


def test_options_of_vhostd():
    text = subprocess.run([VHOSTD, "--help"], capture_output=True, text=True, check=True, timeout=DEADLINE).stdout
    options = set(re.findall(r"^  .*?(--[a-z-]+)", text, re.MULTILINE))
    assert {"--cpus", "--state", "--no-state", "--version"} < options
    for words in ([""], ["-"], ["--syslog", ""], ["-l", "0", "--no-state", "--"]):
        assert ask(VHOSTD, *words) == (options, ""), words


@pytest.mark.parametrize("words, offered, options", [
    (["--mode", ""], {"adaptive", "interrupt", "poll"}, ""),
    (["--mode", "=", "in"], {"interrupt"}, ""),
    (["--log-level", "D"], {"DEBUG", "DISABLED"}, ""),
    (["--log-level", ""], {"ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "DISABLED"}, ""),
    (["--metrics", ""], {"unix:", "127.0.0.1:"}, NO_SPACE),
    (["--cpus", ""], set(), ""),
    (["-m", ""], set(), ""),
    (["--user", "roo"], {name.pw_name for name in pwd.getpwall() if name.pw_name.startswith("roo")}, ""),
    (["--group", "roo"], {name.gr_name for name in grp.getgrall() if name.gr_name.startswith("roo")}, ""),
    (["--no-such"], set(), ""),
    (["a/b.*[", "--no-st"], {"--no-state"}, ""),
])
def test_values_of_vhostd(words, offered, options):
    assert ask(VHOSTD, *words) == (offered, options)


@pytest.mark.parametrize("words, offered", [
    (["--config", "di"], {"disks", "disk 0.json"}), (["-c", "=", "di"], {"disks", "disk 0.json"}),
    (["--state", "di"], {"disks", "disk 0.json"}), (["-r", "di"], {"disks", "disk 0.json"}),
    (["--socket-dir", "di"], {"disks"}), (["-S", "=", ""], {"disks"}),
    (["--metrics", "unix", ":", "disks"], {"disks"}), (["--metrics", "unix", ":"], {"disks", "disk 0.json"}),
])
def test_files_of_vhostd(words, offered, tmp_path):
    (tmp_path / "disk 0.json").touch()
    (tmp_path / "disks").mkdir()
    assert ask(VHOSTD, *words, cwd=tmp_path) == (offered, FILES)
