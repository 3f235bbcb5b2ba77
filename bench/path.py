#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Instructions that the daemon needs for one I/O, exactly, in all and by stage.

Runs path_bench under callgrind. An instruction belongs to the function whose source it comes from,
also where the compiler has inlined that function, and a function to the stage that STAGES says.

    bench/path.py                              every case
    bench/path.py --ring split --qd 32         those of path_bench's own options
    bench/path.py --functions --qd 32          by function
    bench/path.py --program nvme_perf          an NVMe disk without guests
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from processes import BenchError, NotAvailable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The first row whose patterns both match, of a file below the root and a function. Code that is in no
# row of its own counts as the stage that its room is mostly for.
STAGES = (
    ('other', r'bench/nvme_perf', r'^(submit|on_done)$'),
    ('front-end', r'bench/|tests/', r''),
    ('device', r'lib/nvme/|lib/bdev/bdev_nvme|lib/env/dma|include/nvme', r''),
    ('reactor', r'lib/(event|env)/', r''),
    ('poll', r'lib/vhost/', r'^(queue_poll|poll_\w+|thread_poll)$'),
    ('notify', r'lib/virtio/', r'publish|notif|keep_kicks|store_quiet|_event$|_after'),
    ('notify', r'lib/vhost/', r'publish|signal'),
    ('push', r'lib/virtio/', r'push|end_chain|release_part'),
    ('push', r'lib/vhost/queue', r'complete'),
    ('pop', r'lib/virtio/|include/guest_mem', r''),
    ('complete', r'lib/vhost/', r'^(on_\w*done|finish\w*|vhost_blk_status|complete\w*|residual|vhost_scsi_put_response)$'),
    ('parse', r'lib/vhost/', r''),
    ('device', r'lib/bdev/bdev_(null|malloc|uring)', r''),
    ('complete', r'lib/bdev/', r'complete|finish|^count|drained|done'),
    ('submit', r'lib/bdev/', r''),
    ('complete', r'lib/scsi/', r'finish|^scsi_io_done$|^fail$|walk'),
    ('submit', r'lib/scsi/', r''),
    ('poll', r'lib/thread/|include/', r''),
)
ORDER = ('reactor', 'poll', 'pop', 'parse', 'submit', 'device', 'complete', 'push', 'notify', 'other')


def functions_of(path):
    """[(first line, last line, name)] of a C file in our form: names begin lines, so do their ends."""
    found, name, first = [], None, 0
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            match = re.match(r'([a-z_]\w*)\(', line)
            if match and not line.startswith('_Static_assert'):
                name, first = match.group(1), number
            elif name and line.startswith('}'):
                found.append((first, number, name))
                name = None
    return found


class Sources:
    """Which function of ours a line is in."""

    def __init__(self):
        self.files = {}

    def find(self, path, line, fallback):
        """(file below the root or None, function)."""
        path = os.path.normpath(path)
        if not path.startswith(ROOT + os.sep) and os.path.isabs(path):
            return None, fallback
        full = os.path.join(ROOT, path)
        if full not in self.files:
            self.files[full] = functions_of(full) if os.path.isfile(full) else None
        functions = self.files[full]
        if functions is None:
            return None, fallback
        name = next((n for first, last, n in functions if first <= line <= last), fallback)
        return os.path.relpath(full, ROOT), name


def stage_of(file, function):
    if file is None:
        return 'other'
    return next((stage for stage, in_file, in_function in STAGES
                 if re.match(in_file, file) and re.search(in_function, function)), 'other')


class Dump:
    """One of callgrind's files: the case it is about and its cost by line."""

    def __init__(self, path):
        self.case = None
        self.lines = {}  # (file, function as compiled, line): instructions
        self.names = {}
        with open(path, encoding='utf-8', errors='replace') as file:
            self._parse(file)

    def _name(self, kind, text):
        match = re.match(r'\((\d+)\)\s*(.*)', text)
        if not match:
            return text
        key = (kind, match.group(1))
        if match.group(2):
            self.names[key] = match.group(2)
        return self.names.get(key, '?')

    def _parse(self, file):
        where, function, line, skip = '', '', 0, False
        for text in file:
            text = text.rstrip('\n')
            key, _, value = text.partition('=')
            if text.startswith('desc: Trigger: Client Request: '):
                self.case = text.rsplit(' ', 1)[1]
            elif key in ('fl', 'fi', 'fe'):
                where = self._name('file', value)
            elif key == 'fn':
                function = self._name('fn', value)
            elif key in ('cfi', 'cfl'):
                self._name('file', value)
            elif key == 'cfn':
                self._name('fn', value)
            elif key == 'calls':
                skip = True  # the cost of what was called is there, too
            elif re.match(r'[+\-*\d]', text):
                position, _, cost = text.partition(' ')
                if position[0] in '+-':
                    line += int(position)
                elif position != '*':
                    line = int(position)
                if not skip and cost:
                    place = (where, function, line)
                    self.lines[place] = self.lines.get(place, 0) + int(cost.split()[0])
                skip = False


def by_function(dump, sources):
    """{(stage, file, function): instructions}, without those of the front-end."""
    total = {}
    for (path, compiled, line), cost in dump.lines.items():
        file, function = sources.find(path, line, compiled)
        stage = stage_of(file, function)
        if stage != 'front-end':
            key = (stage, file or 'libc', function)
            total[key] = total.get(key, 0) + cost
    return total


def run_callgrind(program, options, folder, ios):
    command = ['valgrind', '--tool=callgrind', '--fair-sched=yes', '--collect-atstart=no',
               '--dump-line=yes', f'--callgrind-out-file={folder}/out', program, '--json',
               '--ios', str(ios), *options]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300,
                                env=os.environ | {'TMPDIR': folder})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(str(error)) from error
    if result.returncode:
        words = [line for line in result.stderr.splitlines() if not line.startswith('==')]
        raise BenchError(words[-1] if words else f'status {result.returncode}')
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{')]


def count(program, options=(), ios=3200):
    """Cases as path_bench reports them, with 'instructions', 'stages' and 'functions' per I/O."""
    if not shutil.which('valgrind'):
        raise NotAvailable('valgrind is not installed')
    sources = Sources()
    with tempfile.TemporaryDirectory(prefix='vhostd-path-') as folder:
        cases = run_callgrind(program, options, folder, ios)
        dumps = {}
        for name in os.listdir(folder):
            dump = Dump(os.path.join(folder, name))
            if dump.case:
                dumps[dump.case] = dump
    for case in cases:
        if case['name'] not in dumps:
            raise NotAvailable(f'{program} was built without <valgrind/callgrind.h>')
        del case['cycles_per_io']  # valgrind's own
        functions = by_function(dumps[case['name']], sources)
        case['functions'] = {f'{file}:{name}': {'stage': stage, 'instructions': cost / case['ios']}
                             for (stage, file, name), cost in functions.items()}
        case['stages'] = {stage: sum(cost for key, cost in functions.items() if key[0] == stage)
                          / case['ios'] for stage in ORDER}
        case['instructions'] = sum(case['stages'].values())
    return cases


def print_stages(cases):
    width = max(len(case['name']) for case in cases)
    print('instructions per I/O'.ljust(width), ' '.join(f'{s:>8}' for s in ('total', *ORDER)))
    for case in cases:
        numbers = [case['instructions'], *(case['stages'][stage] for stage in ORDER)]
        print(case['name'].ljust(width), ' '.join(f'{n:8.1f}' for n in numbers))


def print_functions(cases):
    for case in cases:
        print(f"\n{case['name']}: {case['instructions']:.1f}")
        ranked = sorted(case['functions'].items(),
                        key=lambda item: (ORDER.index(item[1]['stage']), -item[1]['instructions']))
        for name, values in ranked:
            if values['instructions'] >= 0.5:
                print(f"  {values['stage']:9} {values['instructions']:7.1f}  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog='All other options are the program\'s.')
    parser.add_argument('--program', default='path_bench', help='path_bench or nvme_perf')
    parser.add_argument('--bin', default='build/bin', help='folder of the programs (build/bin)')
    parser.add_argument('--ios', type=int, default=3200, help='I/Os counted in each case (3200)')
    parser.add_argument('--functions', action='store_true', help='by function, too')
    args, options = parser.parse_known_args()
    try:
        cases = count(os.path.join(args.bin, args.program), options, args.ios)
    except BenchError as error:
        print(f'path: {error}', file=sys.stderr)
        return 1
    if not cases:
        print('path: no case is available', file=sys.stderr)
        return 1
    print_stages(cases)
    if args.functions:
        print_functions(cases)
    return 0


if __name__ == '__main__':
    sys.exit(main())
