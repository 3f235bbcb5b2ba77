# SPDX-License-Identifier: BSD-3-Clause
"""Runs that are compared, side by side: in short turns, and only turns in which nothing was moved.

A virtual machine's CPUs are moved between near and far cores every few seconds, which changes
all figures of two CPUs by a factor of two or three. So what is compared takes turns of less
than a second; the round trip of a cache line is measured around each run, and a turn in which it
has changed is dropped and done again. Ratios are the medians of those within each turn.
"""
from processes import NotAvailable

TURNS = 7
STEADY = 1.3  # of the longest round trip in a turn to the shortest


def is_steady(trips):
    return None in trips or max(trips) <= STEADY * min(trips)


def take_turn(bench, runs):
    """The samples of one turn, or None if the CPUs were moved meanwhile."""
    trips = [bench.measure_round_trip()]
    samples = []
    for run in runs:
        samples += run()
        trips.append(bench.measure_round_trip())
        if not is_steady(trips):
            return None
    return samples


def in_turns(bench, runs, turns=TURNS):
    """
    Each of `runs` is a function that returns a list of samples. They run one after the other, every
    second time the other way round, until so many turns were steady; of twice as many at most.
    """
    if bench.quick:
        turns = min(turns, 3)
    steady = 0
    for tried in range(2 * turns):
        samples = take_turn(bench, runs if tried % 2 == 0 else runs[::-1])
        if samples is None:
            bench.moved += 1
            continue
        for sample in samples:
            bench.add(**sample, turn=bench.turn)
        bench.turn += 1
        steady += 1
        if steady == turns:
            return
    if steady == 0:
        raise NotAvailable(f'the CPUs were moved in each of {2 * turns} turns')
