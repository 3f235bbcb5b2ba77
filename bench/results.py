# SPDX-License-Identifier: BSD-3-Clause
"""A run of the benchmarks: its settings, its samples, and the medians that they add up to."""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from processes import BenchError, NotAvailable, cpu_ns

NOT_OFFERED = 3  # exit status of vhost_load
NEAR_NS = 150  # round trip of a cache line between CPUs of one core complex
QUIET_PERCENT = 5  # of the machine that other programs may use meanwhile


def machine_busy_s():
    """CPU time that was used on, or stolen from, the whole machine since it started."""
    with open('/proc/stat', encoding='ascii') as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf('SC_CLK_TCK')


def own_cpu_s():
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def is_near(round_trip_ns):
    """Where it cannot be measured there is nothing to choose."""
    return round_trip_ns is None or round_trip_ns <= NEAR_NS


def is_undisturbed(sample):
    return is_near(sample.get('round_trip_ns')) and \
        sample.get('others_percent', 0) <= QUIET_PERCENT


class Bench:
    """A whole run: its settings, its samples, and what had to be left out."""

    def __init__(self, args):
        cpus = sorted(os.sched_getaffinity(0))
        self.bin = args.bin
        self.quick = args.quick
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]
        self.seconds = args.seconds or (0.7 if args.quick else 1)
        self.dir = None
        self.round_trip_ns = None
        self.servers = set()  # that run
        self.turn = 0  # of turns.py: its number
        self.moved = 0  # turns that were dropped
        self.patience = 10 if args.quick else 60  # seconds left to wait for near CPUs
        self.start = (time.monotonic(), machine_busy_s(), own_cpu_s())
        self.samples = []  # dicts with case, server and figures
        self.unavailable = {}  # case or server and case: reason
        self.errors = []
        if len(cpus) < 2:
            self.leave_out('two CPUs', 'server and load generator share the only one')

    def program(self, name):
        return os.path.join(self.bin, name)

    def leave_out(self, what, reason):
        if what not in self.unavailable:
            print(f'not available: {what}: {reason}', flush=True)
        self.unavailable[what] = str(reason)

    def others_percent(self):
        """What others have used of the machine since the start: what makes figures worse."""
        began, busy, own = self.start
        others = machine_busy_s() - busy - (own_cpu_s() - own)
        return max(0, 100 * others / (time.monotonic() - began) / os.cpu_count())

    @contextlib.contextmanager
    def watching_others(self, server, sample):
        """Around what is measured: says in the sample how much of the machine others used."""
        def used():
            return machine_busy_s() - own_cpu_s() - cpu_ns(server.pid) / 1e9
        began, before = time.monotonic(), used()
        yield
        machine_s = (time.monotonic() - began) * os.cpu_count()
        sample['others_percent'] = max(0, 100 * (used() - before) / machine_s)

    def error(self, text):
        print(f'error: {text}', file=sys.stderr, flush=True)
        self.errors.append(text)

    def run_program(self, name, *options, timeout=120):
        """Runs one of the programs to its end; returns the JSON objects that it prints."""
        command = [self.program(name), *map(str, options)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False,
                                    timeout=timeout, env=os.environ | {'TMPDIR': self.dir})
        except subprocess.TimeoutExpired as error:
            raise BenchError(f'{name}: no end within {timeout} s') from error
        if result.returncode:
            words = result.stderr.strip().splitlines()[-1:] or [f'status {result.returncode}']
            if name == 'vhost_load' and result.returncode == NOT_OFFERED:
                raise NotAvailable('the server does not offer it')
            raise BenchError(f"{name} {' '.join(command[1:])}: {words[0]}")
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{')]

    def load(self, *options):
        """Runs vhost_load on its CPU; returns its result."""
        return self.run_program('vhost_load', '--json', '--cpu', self.load_cpu, *options)[0]

    @contextlib.contextmanager
    def servers_stopped(self):
        """Servers that poll leave their CPU to what is measured without them."""
        for server in self.servers:
            server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for server in self.servers:
                server.process.send_signal(signal.SIGCONT)

    def measure_round_trip(self):
        """Of a cache line between the two CPUs: it belongs to the samples that follow."""
        self.round_trip_ns = None
        with contextlib.suppress(BenchError), self.servers_stopped():
            pair = f'{self.server_cpu},{self.load_cpu}'
            self.round_trip_ns = self.load('--pingpong', pair)['round_trip_ns']
        return self.round_trip_ns

    def wait_until_near(self):
        """All waits of a run are a minute together at most, of a quick one less."""
        self.measure_round_trip()
        while not is_near(self.round_trip_ns) and self.patience > 0:
            self.patience -= 1
            time.sleep(1)
            self.measure_round_trip()

    def add(self, case, server, **figures):
        sample = {'case': case, 'server': server, 'round_trip_ns': self.round_trip_ns, **figures}
        self.samples.append(sample)
        shown = ('iops', 'avg_us', 'cycles_per_io', 'value')
        text = ', '.join(f'{k} {figures[k]:,.2f}' for k in shown if figures.get(k) is not None)
        print(f'{case:40} {server:7} {text}', flush=True)


class Summary:
    """Medians of a run's samples: of the undisturbed ones of near CPUs, where there are any."""

    def __init__(self, samples):
        groups = {}
        for sample in samples:
            groups.setdefault((sample['case'], sample['server']), []).append(sample)
        self.groups = {key: self._medians(self._best(group)) for key, group in groups.items()}
        self.turns = {(sample['case'], sample['server'], sample['turn']): sample
                      for sample in samples if 'turn' in sample}

    @staticmethod
    def _best(group):
        return [s for s in group if is_undisturbed(s)] or \
            [s for s in group if is_near(s.get('round_trip_ns'))] or group

    @staticmethod
    def _medians(group):
        medians = {}
        for metric in group[0]:
            values = [s[metric] for s in group if isinstance(s.get(metric), (int, float))]
            if values:
                medians[metric] = statistics.median(values)
        maps = [s['percentiles_us'] for s in group if 'percentiles_us' in s]
        if maps:
            medians['percentiles_us'] = {
                p: statistics.median(m[p] for m in maps if p in m) for p in maps[0]}
        return medians

    def get(self, case, metric, server='vhostd'):
        """None where it was not measured."""
        return self.groups.get((case, server), {}).get(metric)

    def in_turns(self, one, other, figure):
        """
        The median of figure(sample, other sample) of two (case, server) over their turns; None
        where there is none, or no figure in one of them.
        """
        pairs = [(sample, self.turns[*other, turn]) for (*key, turn), sample in self.turns.items()
                 if tuple(key) == one and (*other, turn) in self.turns]
        best = [pair for pair in pairs if all(map(is_undisturbed, pair))] or \
            [pair for pair in pairs if is_near(pair[0].get('round_trip_ns'))] or pairs
        figures = [figure(*pair) for pair in best]
        return statistics.median(figures) if figures and None not in figures else None
