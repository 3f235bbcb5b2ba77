# SPDX-License-Identifier: BSD-3-Clause
"""The manual pages say what the programs' own help says: all options, commands and methods, and no others."""
import re
import shlex
import subprocess

from harness import DEADLINE, ROOT, VHOSTD, vhostctl

VHOSTD_MANUAL = ROOT / "docs/man/vhostd.8"
VHOSTCTL_MANUAL = ROOT / "docs/man/vhostctl.1"
OPTION = re.compile(r"(?:(-\w), *)?--([a-z-]+)(?: ([A-Z]+))?")   # letter, name, argument


def section(manual, name):
    return re.search(rf'^\.SH "?{name}"?\n(.*?)(?=^\.SH|\Z)', manual.read_text(), re.MULTILINE | re.DOTALL).group(1)


def plain(line):
    """A line of roff as text: macros of alternating fonts join their words."""
    macro, text = re.match(r"(?:\.([A-Z]+) )?(.*)", line).groups()
    text = re.sub(r"\\f.", "", text).replace("\\-", "-")
    if macro is None:
        return text
    return ("" if len(macro) == 2 else " ").join(shlex.split(text))


def heads(text):
    """The heads of a list's entries."""
    return [plain(line) for line in re.findall(r"^\.TP\n(.*)$", text, re.MULTILINE)]


def options_of_manual(manual):
    return {option for head in heads(section(manual, "OPTIONS")) for option in OPTION.findall(head)}


def options_of_help(text):
    return set(re.findall(r"^ +(?:(-\w), +)?--([a-z-]+)(?: ([A-Z]+))?  ", text, re.MULTILINE))


def test_options_of_vhostd():
    text = subprocess.run([VHOSTD, "--help"], capture_output=True, text=True, check=True, timeout=DEADLINE).stdout
    options = options_of_help(text)
    assert len(options) > 10
    assert options_of_manual(VHOSTD_MANUAL) == options


def test_options_of_vhostctl():
    text = vhostctl("--help").stdout
    assert options_of_manual(VHOSTCTL_MANUAL) == options_of_help(text) | {("-h", "help", ""), ("", "version", "")}


def test_commands_of_vhostctl():
    """What the help lists is in the manual, and the manual has no other."""
    listed = re.search(r"^Commands:\n(.*?)\n\n", vhostctl("--help").stdout, re.MULTILINE | re.DOTALL).group(1)
    commands = set()
    for names in re.findall(r"^  ([a-z].*?)  ", listed, re.MULTILINE):
        first, *others = names.split(", ")
        commands |= {first, *(name if " " in name else f"{first.split()[0]} {name}" for name in others)}
    manual = [re.match(r"[a-z -]*[a-z](?= |$)", re.sub(r" (-|\[).*", "", head)).group()
              for head in heads(section(VHOSTCTL_MANUAL, "COMMANDS"))]
    assert commands == set(manual) and "call" in commands


def test_methods():
    done = subprocess.run([ROOT / "packaging/man-methods.sh", VHOSTCTL_MANUAL], input=vhostctl("--help").stdout,
                          capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert done.stdout == VHOSTCTL_MANUAL.read_text(), "run `make docs`"
    assert heads(section(VHOSTCTL_MANUAL, "METHODS")) == re.findall(r"^### (\w+)$", vhostctl("--markdown").stdout, re.MULTILINE)
