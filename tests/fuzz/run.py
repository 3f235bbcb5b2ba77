#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the fuzzers, as many at a time as there are CPUs, and closes with a line for each.

    tests/fuzz/run.py --build BUILD [--seconds N] [--only NAME] [--merge]

BUILD/fuzz/fuzz_<thing> starts from tests/fuzz/corpus/<thing> and what earlier runs left in
BUILD/corpus/<thing>. What it finds is kept in BUILD/findings/<thing>, its words in
BUILD/findings/<thing>.log. --merge runs nothing: it makes tests/fuzz/corpus/<thing> the smallest set of both
that reaches as much. Exit status: 0 when no fuzzer has findings.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CORPUS = ROOT / "tests/fuzz/corpus"
DICTIONARIES = {"jsonrpc": "jsonrpc.dict", "state": "jsonrpc.dict"}
MAX_BYTES = 4096        # of an input
KEEP_BYTES = 1024       # of one that is made part of the tree
INPUT_SECONDS = 20      # for one input
MEMORY_MB = 2048
GRACE_SECONDS = 120     # after which a fuzzer that does not end is killed
STATUS = re.compile(r"^#(\d+)\s.*cov: (\d+) ft: (\d+)", re.MULTILINE)
COUNT = re.compile(r"^# fuzz_\w+: (.*)$", re.MULTILINE)      # what a target says of itself at its end

running = set()         # fuzzers


def environment(tmp):
    return dict(os.environ, TMPDIR=tmp,
                ASAN_OPTIONS="detect_leaks=1",
                UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
                LSAN_OPTIONS=f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0")


def run_fuzzer(build, thing, seconds):
    """Returns the summary line and the findings."""
    corpus = build / "corpus" / thing
    findings = build / "findings" / thing
    log = build / "findings" / f"{thing}.log"
    shutil.rmtree(findings, ignore_errors=True)
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True)
    command = [str(build / "fuzz" / f"fuzz_{thing}"), f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}",
               f"-timeout={INPUT_SECONDS}", "-report_slow_units=3600", f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={findings}/"]
    if thing in DICTIONARIES:
        command.append(f"-dict=tests/fuzz/{DICTIONARIES[thing]}")
    command += [str(corpus), str(CORPUS / thing)]
    with tempfile.TemporaryDirectory(prefix="vf-") as tmp, open(log, "wb") as output:
        with subprocess.Popen(command, cwd=ROOT, env=environment(tmp), stdin=subprocess.DEVNULL, stdout=output,
                              stderr=output) as process:
            running.add(process)
            try:
                status = process.wait(seconds + GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = None
        running.discard(process)
    found = sorted(findings.iterdir())
    words = log.read_text(errors="replace")
    progress = STATUS.findall(words)
    runs, edges, features = progress[-1] if progress else ("no", "0", "0")
    counts = "".join(f", {count}" for count in COUNT.findall(words))
    line = f"{thing}: {runs} runs{counts}, {edges} edges, {features} features, {len(found)} findings"
    if status != 0 and not found:
        line += f", ended with status {status}: see {log.relative_to(ROOT)}"
    return line, found, status == 0


def merge(build, thing):
    """libFuzzer's own merge, from both corpora into an empty folder."""
    with tempfile.TemporaryDirectory(prefix="vf-") as tmp:
        folder = Path(tmp) / "merged"
        folder.mkdir()
        sources = [str(CORPUS / thing), str(build / "corpus" / thing)]
        subprocess.run([str(build / "fuzz" / f"fuzz_{thing}"), "-set_cover_merge=1", f"-max_len={KEEP_BYTES}", str(folder),
                        *sources], cwd=ROOT, env=environment(tmp), stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        # What was made by hand has a name, and stays.
        for path in (CORPUS / thing).iterdir():
            if re.fullmatch("[0-9a-f]{40}", path.name):
                path.unlink()
        kept = {path.read_bytes() for path in (CORPUS / thing).iterdir()}
        for path in folder.iterdir():
            if path.read_bytes() not in kept:
                shutil.copy(path, CORPUS / thing / path.name)
    sizes = [path.stat().st_size for path in (CORPUS / thing).iterdir()]
    print(f"{thing}: {len(sizes)} inputs, {sum(sizes)} bytes")


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--only", default="", help="run only fuzzers whose name contains this")
    parser.add_argument("--merge", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    build = (ROOT / options.build).resolve()
    things = sorted(path.name[len("fuzz_"):] for path in (build / "fuzz").glob("fuzz_*") if options.only in path.name)
    if not things:
        sys.exit(f"{build}/fuzz: there are no fuzzers")
    if options.merge:
        for thing in things:
            merge(build, thing)
        return 0
    good = True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for line, found, ended_well in pool.map(lambda thing: run_fuzzer(build, thing, options.seconds), things):
                print(line, flush=True)
                for path in found:
                    print(f"       finding: {path.relative_to(ROOT)}", flush=True)
                good = good and ended_well and not found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
            raise
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
