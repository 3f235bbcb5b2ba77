# SPDX-License-Identifier: BSD-3-Clause
"""What the documents say is there: links, commands and their options, the texts of messages, a first disk."""
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from harness import DEADLINE, ROOT, VHOSTCTL, VHOSTD, vhostctl

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OTHERS = sorted((ROOT / "qemu-tests").glob("*.md"))
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
GAP = "\0"      # what a message has at a place where it is not always the same


# ---- links ----

def prose(path):
    """The text without code."""
    text = FENCED.sub("", path.read_text())
    return INLINE.sub("", re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE))


def anchors(path):
    """As GitHub makes them of headings."""
    text = FENCED.sub("", path.read_text())
    found = set()
    for title in re.findall(r"^#{1,6} +(.*?) *$", text, re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(slug if slug not in found else next(f"{slug}-{i}" for i in range(1, 99) if f"{slug}-{i}" not in found))
    return found


def links(path):
    """(target file or None, anchor or None) of those that lead into this tree."""
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        yield (path.parent / name).resolve() if name else path, anchor or None


@pytest.mark.parametrize("document", DOCUMENTS + OTHERS, ids=lambda path: path.name)
def test_links(document):
    for target, anchor in links(document):
        assert target.exists(), f"{document.name}: there is no {target}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{document.name}: {target.name} has no heading #{anchor}"


def test_every_document_can_be_reached():
    reached, unread = {ROOT / "README.md"}, [ROOT / "README.md"]
    while unread:
        for target, _ in links(unread.pop()):
            if target not in reached:
                reached.add(target)
                unread += [target] if target.suffix == ".md" else []
    wanted = {*DOCUMENTS, *(ROOT / "docs/img").iterdir(), *(ROOT / "docs").glob("*.json")}
    assert wanted - reached == set()


# ---- commands ----

def code(path):
    """Lines of code blocks, and code within sentences."""
    text = path.read_text()
    blocks = [block.split("\n", 1)[1].removesuffix("```") for block in FENCED.findall(text)]
    blocks += re.findall(r"^ {4}(.*)$", FENCED.sub("", text), re.MULTILINE)
    return "\n".join(blocks).replace("\\\n", " ").splitlines() + INLINE.findall(FENCED.sub("", text))


def arguments_of(program, path):
    """What is behind the program's name, wherever it is called."""
    for line in code(path):
        for match in re.finditer(rf"(?:^|[\s/(]){program}((?: +[^\s|;()<>]+)+)", re.sub(r"\s#.*", "", line)):
            yield line, match.group(1).split()


@pytest.fixture(scope="module")
def options_of_methods():
    """Of each method, by all of its names."""
    text, options = vhostctl("--markdown").stdout, {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        names = [section.split("\n", 1)[0], *re.findall(r"Old names?: ((?:`\w+`(?:, )?)+)", section)]
        parameters = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        for name in re.findall(r"\w+", " ".join(names)):
            options[name] = parameters
    assert {"name", "filename"} <= options["bdev_uring_create"]
    return options


@pytest.fixture(scope="module")
def commands():
    """{"nvme": {"list", ...}, "top": set()} of vhostctl, and the options of all commands."""
    usage = vhostctl("--help").stdout
    listed = re.search(r"^Commands:\n(.*?)\n\n", usage, re.MULTILINE | re.DOTALL).group(1)
    words = {}
    for names in re.findall(r"^  ([a-z].*?)  ", listed, re.MULTILINE):
        first, *others = names.split(", ")
        for name in (first, *(other if " " in other else f"{first.split()[0]} {other}" for other in others)):
            command, _, word = name.partition(" ")
            words.setdefault(command, set()).update([word] if word else [])
    manual = re.sub(r"\\f.", "", (ROOT / "docs/man/vhostctl.1").read_text()).replace("\\-", "-")
    return words, set(re.findall(r"--[a-z-]+", usage + manual))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_vhostctl(document, options_of_methods, commands):
    words, known = commands
    for line, arguments in arguments_of("vhostctl", document):
        arguments = [argument.strip("`,.\"'") for argument in arguments]
        while arguments and arguments[0] in ("-s", "-t", "--socket", "--timeout"):
            del arguments[:2]
        while arguments and arguments[0].startswith("-"):
            assert arguments[0].rstrip(":") in known, line
            del arguments[0]
        if not arguments or re.fullmatch(r"[^a-z]+|\W.*|<.*", arguments[0]):
            continue        # "vhostctl METHOD --help"
        name = arguments[0]
        given = {re.sub(r"=.*", "", argument) for argument in arguments[1:] if argument.startswith("--")} - {"--help", "--json"}
        if name in options_of_methods:
            assert {option[2:].replace("-", "_") for option in given} <= options_of_methods[name], line
        elif name in words:
            assert not words[name] or len(arguments) < 2 or not arguments[1].isalpha() or arguments[1] in words[name], line
            assert given <= known, line
        else:
            assert document.name == "architecture.md" or name in ("and", "is", "may"), f"{document.name}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_of_vhostd(document):
    text = subprocess.run([VHOSTD, "--help"], capture_output=True, text=True, check=True, timeout=DEADLINE).stdout
    known = set(re.findall(r"(?<![\w-])(?:--[a-z-]+|-\w)\b", text))
    for line, arguments in arguments_of("vhostd", document):
        for argument in arguments:
            if argument.startswith("-") and "..." not in line:
                assert argument.split("=")[0] in known, f"{document.name}: {line}"


# ---- messages ----

LITERAL = r'"(?:[^"\\\n]|\\.)*"'
MACRO = r"[A-Z][A-Z0-9_]+\b"
TEXT = re.compile(rf"(?:{LITERAL}|{MACRO})(?:\s+(?:{LITERAL}|{MACRO}))*")
FORMAT = re.compile(r"(?:0x)?%[-+ #0-9.*]*(?:hh|h|ll|l|z|j|t)?[a-zA-Z]")
SOURCES = [path for room in ("rpc", "vhostd", "lib", "include") for path in sorted((ROOT / room).rglob("*.[ch]"))]


def messages(text):
    """The texts in a piece of C, with gaps for formats and macros. Literals that follow each other are one."""
    found = []
    for match in TEXT.findall(text):
        message = ""
        for piece in re.findall(rf"{LITERAL}|{MACRO}", match):
            if piece.startswith('"'):
                message += piece[1:-1]
            else:
                message += "d" if message.endswith("%") else GAP    # PRIu64
        message = FORMAT.sub(GAP, message.replace('\\"', '"')).replace("%%", "%")
        found.append(re.sub(GAP + "+", GAP, message))
    return [message for message in found if message != GAP]


@pytest.fixture(scope="module")
def all_messages():
    return "\n".join(message for path in SOURCES for message in messages(path.read_text()))


def quoted(section):
    """The messages in the first column of a section's tables, as plain() makes them."""
    for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE):
        for message in INLINE.findall(row):
            yield message, re.sub(f"{GAP}+", GAP, message.replace("...", GAP)).strip(GAP + " ")


def chapters():
    """{heading: text} of docs/troubleshooting.md, of level 2."""
    parts = re.split(r"^## (.*)$", (ROOT / "docs/troubleshooting.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def test_messages_are_the_programs_own(all_messages):
    checked, invented = 0, []
    for heading in ("The daemon does not start", "What vhostctl says", "What the log says"):
        for message, text in quoted(chapters()[heading]):
            if message.startswith("vhostctl: "):
                continue
            checked += 1
            if text not in all_messages:
                invented.append(message)
    assert not invented, "nothing says: " + "\n".join(invented)
    assert checked > 100


CALL = re.compile(r"\b(?:log_err|log_warn|ctrlr_log)\(")


def calls(text, function):
    """The arguments of each call, as they stand there."""
    for match in function.finditer(text):
        depth, inside, i = 1, False, match.end()
        while depth > 0:
            if text[i] == "\\":
                i += 1
            elif text[i] == '"':
                inside = not inside
            elif not inside:
                depth += {"(": 1, ")": -1}.get(text[i], 0)
            i += 1
        yield match.group(), text[match.end():i - 1]


def test_every_warning_and_error_of_the_log_is_explained():
    explained = {text for _, text in quoted(chapters()["What the log says"]) if len(text) > 8}
    seen, unexplained = 0, []
    for path in sorted((ROOT / "lib").rglob("*.c")) + sorted((ROOT / "vhostd").glob("*.c")):
        if path.parent.name in ("client", "load"):
            continue        # not of the daemon
        for name, arguments in calls(path.read_text(), CALL):
            said = [message for message in messages(arguments) if re.search(r"\w{2} \w{2}", message)]
            if not said or name == "ctrlr_log(" and not re.match("err|warn", arguments):
                continue    # only what somebody else says, or no level to be explained
            seen += 1
            if not any(one in said[0] for one in explained):
                unexplained.append(said[0].replace(GAP, "..."))
    assert not unexplained, "docs/troubleshooting.md does not explain: " + "\n".join(unexplained)
    assert seen > 60


# ---- a first disk ----

NC = """#!{python}
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[-1])
connection.sendall(sys.stdin.buffer.read())
connection.shutdown(socket.SHUT_WR)
while piece := connection.recv(65536):
    sys.stdout.buffer.write(piece)
"""


def test_first_disk_line_by_line(vhostd):
    """Its blocks are run as they stand there, but for the folders; nc is played by a script."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/getting-started.md").read_text(), re.MULTILINE | re.DOTALL)
    programs, images = vhostd.folder / "bin", vhostd.folder / "srv"
    programs.mkdir()
    images.mkdir()
    (programs / "nc").write_text(NC.format(python=sys.executable))
    (programs / "nc").chmod(0o755)
    (programs / "vhostctl").symlink_to(VHOSTCTL)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "VHOSTD_RPC_SOCKET": str(vhostd.socket)}
    outputs = []
    for block in blocks:
        block = block.replace("/srv/", f"{images}/").replace("/run/vhostd/rpc.sock", str(vhostd.socket))
        done = subprocess.run(["sh", "-eu", "-c", block], env=environment, cwd=vhostd.folder, capture_output=True,
                              text=True, timeout=2 * DEADLINE, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        outputs.append(done.stdout)
    text = "\n".join(outputs)
    assert "vm1.data" in text and "vm2.ro" in text and '"jsonrpc"' in text
    assert (images / "data.img").stat().st_size == 20 << 30, "the file stays, and has grown"
    assert vhostd.rpc("bdev_get_bdevs") == [] and vhostd.rpc("vhost_get_controllers") == []
    assert json.loads((vhostd.folder / "disks.json").read_text())["subsystems"]


def test_dump_of_top_is_what_it_prints(shared):
    """The lines that do not change."""
    shared.rpc("bdev_null_create", name="null0", num_blocks=8, block_size=512)
    shared.rpc("vhost_create_blk_controller", ctrlr="vm1", dev_name="null0")
    lines = shared.ctl("top", "--once", "--interval", "0.1").stdout.splitlines()
    document = (ROOT / "docs/tuning.md").read_text()
    shown = re.search(r"^```\n(vhostd v.*?)^```$", document, re.MULTILINE | re.DOTALL).group(1).splitlines()
    assert lines[3].rstrip() == shown[3]

    def shape(line):
        return re.sub(r"\d+(\.\d+)?", "N", re.sub(r" +", " ", line)).strip()

    assert shape(lines[1]) == shape(shown[1])
    assert shape(shown[2]).startswith(shape(lines[2]))
    assert [len(row.split()) for row in shown[4:]] == [len(lines[4].split())] * (len(shown) - 4)


# ---- security ----

def test_security_quotes_the_unit():
    """docs/security.md has settings of the unit, and no others."""
    unit = (ROOT / "packaging/vhostd.service").read_text().splitlines()
    table = re.findall(r"^\| `([A-Z]\w+=[^`]*)`", (ROOT / "docs/security.md").read_text(), re.MULTILINE)
    assert len(table) > 5
    for setting in table:
        assert setting in unit, setting


def test_security_of_sockets(vhostd):
    """Modes of a daemon that was told nothing about users and groups, as the table has them."""
    vhostd.rpc("bdev_null_create", name="null0", num_blocks=8, block_size=512)
    vhostd.rpc("vhost_create_blk_controller", ctrlr="vm1", dev_name="null0")
    table = dict(re.findall(r"^\| ([^|]+?) \| `(\d{4})`", (ROOT / "docs/security.md").read_text(), re.MULTILINE))
    assert vhostd.socket.stat().st_mode & 0o7777 == int(table["JSON-RPC socket"], 8) == 0o600
    assert vhostd.state.stat().st_mode & 0o7777 == int(table["state"], 8) == 0o600
    assert (vhostd.folder / "vm1").stat().st_mode & 0o022 == 0
