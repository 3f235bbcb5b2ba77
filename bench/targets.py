# SPDX-License-Identifier: BSD-3-Clause
"""What is wanted of the figures, next to those of the fastest peer.

The peer is SPDK's vhost target, built from source and measured on a machine of the same class (time
stamp counter 2.6 GHz, cache-line round trip 92 ns) with one front-end core, a queue of 256,
4 KiB; with NVMe it is its vfio-user target with a null disk on one core, its driver on the other.
"""
from collections import namedtuple

# value: of a Summary, or None. at_most, at_least: one of them, or none for what is only shown.
Target = namedtuple('Target', 'title unit value at_most at_least peer cases',
                    defaults=(None, None, None, ()))


def figure(case, metric='value', server='vhostd', scale=1):
    def value(summary):
        number = summary.get(case, metric, server)
        return None if number is None else number * scale
    return value


def ratio(above, below):
    """Of two values; None where one is missing, and where a peer reports 0."""
    def value(summary):
        one, other = above(summary), below(summary)
        return one / other if one is not None and other else None
    return value


def of(title, unit, case, metric='value', scale=1, **wanted):
    return Target(title, unit, figure(case, metric, scale=scale), cases=(case,), **wanted)


def compare(title, above, below, metric='iops', servers=('vhostd', 'vhostd'), **wanted):
    """Of the medians of all runs."""
    return Target(title, '×', ratio(figure(above, metric, servers[0]),
                                    figure(below, metric, servers[1])),
                  cases=(above, below), **wanted)


def compare_turns(title, above, below, metric='iops', servers=('vhostd', 'vhostd'), **wanted):
    """The median of what each turn says."""
    def value(summary):
        return summary.in_turns((above, servers[0]), (below, servers[1]),
                                lambda one, other: one[metric] / other[metric]
                                if other[metric] else None)
    return Target(title, '×', value, cases=(above, below), **wanted)


def instructions(title, name, peer=None, **wanted):
    return of(title, 'instructions', f'path null-{name}', peer=peer, **wanted)


def features(ring, depth, options, metric):
    return compare_turns(f"{ring} QD {depth}, {' and '.join(options)} on: "
                         f"{'latency' if metric == 'avg_us' else 'busy cycles'} to those without",
                         f"features {ring} randread qd{depth} {' '.join(options)}",
                         f'features {ring} randread qd{depth}', metric, at_most=1.15)


def counted_features(ring, depth, options):
    case = f'path null-{ring}-qd{depth}-read'
    return compare(f"{ring} QD {depth}, {' and '.join(options)} on: to those without",
                   '-'.join([case, *(o.replace('-', '_') for o in options)]), case, 'value',
                   at_most=1.15)


def to_the_copy(rw):
    return compare_turns(f'memory disk, {rw} QD 32: busy cycles to those of the copy alone',
                         f'malloc split rand{rw} qd32', f'copy {rw}', 'cycles_per_io',
                         ('vhostd', 'memcpy'), at_most=1.10)


FIRST, BARE = 'first after sleep adaptive', 'bare wake-up'


def added_to_bare(title):
    def value(summary):
        return summary.in_turns((FIRST, 'vhostd'), (BARE, 'epoll'),
                                lambda one, other: one['p50_us'] - other['p50_us'])
    return Target(title, 'µs', value, cases=(FIRST, BARE))


def nvme_alone(depth, iops, cycles, at_most=None):
    case = f'nvme alone qd{depth}'
    return (of(f'driver alone, QD {depth}', 'M IOPS', case, 'iops', 1e-6, peer=iops),
            of(f'driver alone, QD {depth}: busy cycles per I/O', 'cycles', case, 'cycles_per_io',
               at_most=at_most, peer=cycles))


def nvme_interrupts(depth):
    return compare_turns(f'driver alone, QD {depth}, with interrupts: IOPS to those without',
                         f'nvme interrupts qd{depth}', f'nvme polled qd{depth}')


def scsi_instructions(depth, rw, **wanted):
    case = f'path {{}}null-split-qd{depth}-{rw}'
    return (of(f'QD {depth}, {rw}', 'instructions', case.format('scsi-')),
            compare(f'QD {depth}, {rw}: instructions to those of virtio-blk', case.format('scsi-'),
                    case.format(''), 'value', **wanted))


def scsi_cycles(depth, rw, peer):
    """Wanted: four fifths of what the peer needs."""
    case, other = (f'controllers split rand{rw} qd{depth}{more}' for more in (' scsi', ''))
    return (of(f'QD {depth}, {rw}: busy cycles per I/O', 'cycles', case, 'cycles_per_io',
               at_most=round(0.8 * peer), peer=peer),
            compare_turns(f'QD {depth}, {rw}: busy cycles to those of virtio-blk', case, other,
                          'cycles_per_io'),
            of(f'QD {depth}, {rw}', 'M IOPS', case, 'iops', 1e-6),
            of(f'QD {depth}, {rw}: average latency', 'µs', case, 'avg_us'))


FEATURES = (('event-idx',), ('inflight',), ('event-idx', 'inflight'))
SECTIONS = (
    ('Instructions per I/O (null disk, exact)', (
        instructions('split QD 1, read', 'split-qd1-read', 2015, at_most=1200),
        instructions('split QD 1, write', 'split-qd1-write', at_most=1200),
        instructions('split QD 32, read', 'split-qd32-read', 1246, at_most=750),
        instructions('split QD 32, write', 'split-qd32-write', 1246, at_most=750),
        instructions('split QD 128, read', 'split-qd128-read', 1266, at_most=750),
        instructions('split QD 32, read, without indirect tables', 'split-qd32-read-direct'),
        instructions('packed QD 1, read', 'packed-qd1-read', at_most=1200),
        instructions('packed QD 32, read', 'packed-qd32-read', at_most=700),
        instructions('packed QD 32, write', 'packed-qd32-write', at_most=700),
        instructions('packed QD 32, read, without indirect tables', 'packed-qd32-read-direct'),
        *(counted_features(ring, depth, options) for ring in ('split', 'packed')
          for depth in (1, 32) for options in FEATURES),
        instructions('split QD 1, read, among 63 idle controllers', 'split-qd1-read-idle63'),
        instructions('split QD 32, read, among 63 idle controllers', 'split-qd32-read-idle63'),
    )),
    ('Null disk, poll mode', (
        of('split QD 1 read: average latency', 'µs', 'null split randread qd1', 'avg_us',
           at_most=0.37, peer=0.37),
        of('packed QD 1 read: average latency', 'µs', 'null packed randread qd1', 'avg_us',
           at_most=0.28, peer=0.28),
        of('split QD 32 read', 'M IOPS', 'null split randread qd32', 'iops', 1e-6, peer=8.1),
        of('split QD 32 write', 'M IOPS', 'null split randwrite qd32', 'iops', 1e-6, peer=10.7),
        of('split QD 128 read', 'M IOPS', 'null split randread qd128', 'iops', 1e-6, peer=9.2),
        of('packed QD 32 read', 'M IOPS', 'null packed randread qd32', 'iops', 1e-6, peer=7.4),
        of('split QD 32 read: busy cycles per I/O', 'cycles', 'null split randread qd32',
           'cycles_per_io', at_most=228, peer=326),
        of('split QD 32 write: busy cycles per I/O', 'cycles', 'null split randwrite qd32',
           'cycles_per_io', at_most=161, peer=230),
        of('packed QD 32 read: busy cycles per I/O', 'cycles', 'null packed randread qd32',
           'cycles_per_io', at_most=232, peer=331),
        *(features(ring, 32, options, 'cycles_per_io') for ring in ('split', 'packed')
          for options in FEATURES),
        *(features(ring, 1, options, 'avg_us') for ring in ('split', 'packed')
          for options in FEATURES),
        *(compare(f'split QD {depth} read: IOPS to those of qemu-storage-daemon',
                  f'null split randread qd{depth}', f'null split randread qd{depth}',
                  servers=('vhostd', 'qsd')) for depth in (1, 32, 128)),
    )),
    ('virtio-scsi: READ(10) and WRITE(10) (null disk, split ring, poll mode)', (
        *(target for depth, rw, wanted in ((1, 'read', {}), (32, 'read', {'at_most': 1.25}),
                                           (32, 'write', {'at_most': 1.25}), (128, 'read', {}))
          for target in scsi_instructions(depth, rw, **wanted)),
        *(target for depth, rw, peer in ((1, 'read', 484), (32, 'read', 334), (128, 'read', 248),
                                         (32, 'write', 245))
          for target in scsi_cycles(depth, rw, peer)),
    )),
    ('Memory disk and file', (
        to_the_copy('read'),
        to_the_copy('write'),
        of('memory disk, read QD 32', 'M IOPS', 'malloc split randread qd32', 'iops', 1e-6,
           peer=1.8),
        of('memory disk, write QD 32', 'M IOPS', 'malloc split randwrite qd32', 'iops', 1e-6,
           peer=2.8),
        compare('file on tmpfs, read QD 32: IOPS to those of qemu-storage-daemon',
                'tmpfs split randread qd32', 'tmpfs split randread qd32',
                servers=('vhostd', 'qsd'), at_least=1.5),
        compare('file on tmpfs, read QD 32: IOPS to those of fio',
                'tmpfs split randread qd32', 'tmpfs split randread qd32',
                servers=('vhostd', 'fio'), at_least=0.9),
    )),
    ('Neighbours and modes', (
        compare_turns('one busy among 63 idle controllers, QD 1: IOPS to those alone',
                      'among 63 idle split randread qd1', 'alone split randread qd1',
                      at_least=0.90, peer=0.30),
        compare_turns('one busy among 63 idle controllers, QD 32: IOPS to those alone',
                      'among 63 idle split randread qd32', 'alone split randread qd32',
                      at_least=0.95, peer=0.94),
        compare_turns('adaptive, QD 1: latency to that in poll mode',
                      'adaptive split randread qd1', 'poll split randread qd1', 'avg_us',
                      at_most=1.05),
        compare_turns('adaptive, QD 32: IOPS to those in poll mode',
                      'adaptive split randread qd32', 'poll split randread qd32'),
        of('interrupt, QD 1', 'M IOPS', 'interrupt split randread qd1', 'iops', 1e-6, peer=0.47),
        of('interrupt, QD 32', 'M IOPS', 'interrupt split randread qd32', 'iops', 1e-6,
           peer=1.76),
        of('adaptive, 1,000 IOPS: CPU', '%', '1000 IOPS adaptive', at_most=10),
        of('adaptive, first request after a sleep: median latency', 'µs', FIRST, 'p50_us',
           at_most=30),
        Target('a bare thread woken in the same way: its median', 'µs',
               figure(BARE, 'p50_us', 'epoll'), cases=(BARE,)),
        added_to_bare('adaptive, first request after a sleep: more than the bare thread'),
        of('adaptive, 64 idle controllers: CPU', '%', 'idle adaptive 64 controllers', at_most=1),
        of('interrupt, 64 idle controllers: CPU', '%', 'idle interrupt 64 controllers', peer=99),
        of('64 idle controllers: memory', 'MiB', 'idle adaptive 64 controllers', 'rss_mib'),
    )),
    ('Cores (front-end and daemon in turn on each)', (
        compare_turns('4 queues on 2 reactors: IOPS to those on one', '4 queues on 2 reactors',
                      '4 queues on 1 reactors', at_least=1.8),
        compare_turns('4 queues on 2 reactors: busy cycles per I/O to those on one',
                      '4 queues on 2 reactors', '4 queues on 1 reactors', 'cycles_per_io',
                      at_most=1.15),
        compare_turns('two processes of 2 queues, one on each core: IOPS to those of 4 on one',
                      'two processes of 2 queues', '4 queues on 1 reactors'),
        compare_turns('4 queues on 2 reactors: IOPS to those of the two processes',
                      '4 queues on 2 reactors', 'two processes of 2 queues'),
        of('event_perf, one core', 'M/s', 'event_perf on 1 core', scale=1e-6, at_least=20,
           peer=16.9),
        of('event_perf, two cores', 'M/s', 'event_perf on 2 cores', scale=1e-6, at_least=10,
           peer=7.0),
        of('reactor_perf, one core', 'M/s', 'reactor_perf on 1 core', scale=1e-6, at_least=50,
           peer=34.5),
    )),
    ('NVMe (software device without data, on the other CPU)', (
        *nvme_alone(1, 1.14, 636),
        of('driver alone, QD 1: average latency', 'µs', 'nvme alone qd1', 'avg_us', peer=0.82),
        *nvme_alone(32, 4.7, 275, at_most=230),
        *nvme_alone(128, 7.4, 344),
        *(of(f'driver alone, QD {depth}: instructions, load included', 'instructions',
             f'path nvme-alone-qd{depth}-read', **wanted)
          for depth, wanted in ((1, {}), (32, {'at_most': 850, 'peer': 1678}), (128, {}))),
        *(of(f'guest to device and back, {ring} QD {depth}, {rw}', 'instructions',
             f'path nvme-{ring}-qd{depth}-{rw}', **wanted)
          for ring in ('split', 'packed') for depth, wanted in ((1, {}), (32, {'at_most': 1400}))
          for rw in ('read', 'write')),
        of('guest to device and back, split QD 32, read: cycles per I/O', 'cycles', 'nvme path',
           'cycles_per_io', at_most=500),
        compare_turns('guest to device, 4 queues on 2 reactors: IOPS to those on one',
                      'nvme 4 queues on 2 reactors', 'nvme 4 queues on 1 reactors',
                      at_least=1.7),
        of('adaptive, idle: CPU', '%', 'nvme idle adaptive', at_most=1),
        of('adaptive, 1,000 IOPS, the device naps: CPU', '%', 'nvme 1000 IOPS adaptive'),
        nvme_interrupts(1),
        nvme_interrupts(32),
        *(Target(f'the device itself, QD {depth}', 'M IOPS',
                 figure(f'nvme device qd{depth}', 'iops', 'nvme_device', 1e-6),
                 at_least=None if depth == 1 else 5, cases=(f'nvme device qd{depth}',))
          for depth in (1, 32, 128)),
    )),
    ('The daemon', (
        of('exec to RPC', 'ms', 'exec to RPC', at_most=200, peer='160 – 243'),
        of('restart with 64 controllers to RPC', 'ms', 'restart with 64 controllers', peer=258),
        of('RPC answer', 'ms', 'RPC', at_most=0.5, peer=8),
        of('creating 64 controllers, one batch', 'ms', 'creating 64 controllers in a batch',
           at_most=200),
        of('creating 64 controllers, one call each, durable', 'ms',
           'creating 64 controllers one by one', at_most=200),
        of('kill to the first I/O', 'ms', 'kill to I/O', at_most=400, peer=1260),
        of('kill to the first I/O, in-flight tracking', 'ms', 'kill to I/O in-flight',
           at_most=400, peer=1260),
    )),
)


def verdict(target, value):
    """'', 'met' or 'missed'; 'not available' where a bound cannot be judged."""
    if target.at_most is None and target.at_least is None:
        return '' if value is not None else 'not available'
    if value is None:
        return 'not available'
    good = value <= target.at_most if target.at_most is not None else value >= target.at_least
    return 'met' if good else 'missed'
