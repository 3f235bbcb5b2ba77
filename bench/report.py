# SPDX-License-Identifier: BSD-3-Clause
"""Tables of a run's figures, as text and as Markdown, and its JSON."""
import json
import os
import platform
import re
import time

import path
from targets import SECTIONS, verdict


def number(value, unit=''):
    if value is None:
        return '–'
    if isinstance(value, str):
        return value
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    text = f'{value:,.{digits}f}'
    return f'{text} {unit}' if unit else text


def wanted(target):
    if target.at_most is not None:
        return f'≤ {target.at_most:,g}'
    return f'≥ {target.at_least:,g}' if target.at_least is not None else ''


def round_trip(summary, cases):
    """Of a cache line, in the runs that the figure is from. Counted instructions have none."""
    times = [values['round_trip_ns'] for (case, _), values in summary.groups.items()
             if case in cases and 'round_trip_ns' in values and not case.startswith('path ')]
    return f'{max(times):.0f} ns' if times else ''


def target_rows(summary, others=None):
    """
    (section, rows); a row has as many cells as TARGET_HEADER. others: of a run of some cases only:
    the rows of other runs, by section and title, of what was not measured; where there is none of
    that unit it is left out.
    """
    for section, targets in SECTIONS:
        rows = []
        for target in targets:
            value = target.value(summary)
            if value is None and others is not None:
                rows += [cells for cells in others.get((section, target.title), [])
                         if cells[1].endswith(target.unit)]
                continue
            rows.append([target.title, number(value, target.unit), wanted(target),
                         verdict(target, value), number(target.peer, '') if target.peer else '',
                         round_trip(summary, target.cases) if value is not None else ''])
        yield section, rows


TARGET_HEADER = ['figure', 'measured', 'wanted', '', 'peer', 'round trip']
MEASURED_HEADER = ['case', 'server', 'IOPS', 'average µs', 'p50', 'p99', 'p99.9',
                   'busy cycles per I/O', 'CPU cycles per I/O', 'round trip']


def measured_rows(summary):
    """Every workload, of every server."""
    for (case, server), values in summary.groups.items():
        if 'avg_us' not in values:
            continue
        percentiles = values.get('percentiles_us', {})
        yield [case, server, number(values['iops']), number(values['avg_us']),
               *(number(percentiles.get(p)) for p in ('50', '99', '99.9')),
               *(f'{values[m]:,.0f}' if m in values else '–'
                 for m in ('cycles_per_io', 'cpu_cycles_per_io')),
               round_trip(summary, (case,))]


STAGE_HEADER = ['case', 'all', *path.ORDER]


def stage_rows(samples):
    for sample in samples:
        if 'stages' in sample:
            yield [sample['case'].removeprefix('path '), number(sample['value']),
                   *(f"{sample['stages'][stage]:.1f}" for stage in path.ORDER)]


def text_table(header, rows, left=1):
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ['  '.join(cell.ljust(width) if i < left else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
             for row in rows]
    return '\n'.join(lines)


def markdown_table(header, rows, left=1):
    lines = ['| ' + ' | '.join(header) + ' |',
             '|' + '|'.join('---' if i < left else '--:' for i in range(len(header))) + '|']
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join(lines)


# ---- the terminal ----

def print_report(bench, summary, partial=False):
    rows = list(measured_rows(summary))
    if rows:
        print('\n' + text_table(MEASURED_HEADER, rows, 2))
    rows = list(stage_rows(bench.samples))
    if rows:
        print('\nInstructions per I/O by stage\n' + text_table(STAGE_HEADER, rows))
    sections = [(section, rows) for section, rows in
                target_rows(summary, {} if partial else None) if rows]
    for section, rows in sections:
        print(f'\n{section}\n' + text_table(TARGET_HEADER, rows))
    for what, reason in bench.unavailable.items():
        print(f'not available: {what}: {reason}')
    print(f'\nother programs used {bench.others_percent():.1f} % of the machine; '
          f'{bench.moved} turns were done again')
    missed = [row[0] for _, rows in sections for row in rows if row[3] == 'missed']
    print(f'\n{len(missed)} figures missed' + ''.join(f'\n  {title}' for title in missed))


# ---- JSON ----

def machine():
    model = ''
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        for line in file:
            if line.startswith('model name'):
                model = line.split(':', 1)[1].strip()
                break
    return {'cpu': model, 'cpus': os.cpu_count(), 'kernel': os.uname().release,
            'system': platform.freedesktop_os_release().get('PRETTY_NAME', '')}


def write_json(bench, summary, command, file_path):
    document = {
        'date': time.strftime('%Y-%m-%d'),
        'command': command,
        'machine': machine(),
        'others_percent': bench.others_percent(),
        'turns_moved': bench.moved,
        'seconds': bench.seconds,
        'targets': [{'section': section, **dict(zip(('title', 'measured', 'wanted', 'verdict',
                                                     'peer', 'round_trip'), row))}
                    for section, rows in target_rows(summary) for row in rows],
        'cases': [{'case': case, 'server': server, **values}
                  for (case, server), values in summary.groups.items()],
        'samples': bench.samples,
        'not_available': bench.unavailable,
        'errors': bench.errors,
    }
    with open(file_path, 'w', encoding='utf-8') as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.write('\n')


# ---- docs/performance.md ----

STAGES_SHOWN = (*(f'null-{ring}-qd{depth}-read{more}' for ring in ('split', 'packed')
                  for depth, more in ((1, ''), (32, ''), (32, '-event_idx'), (32, '-inflight'))),
                *(f'scsi-null-split-qd{depth}-read' for depth in (1, 32)),
                *(f'nvme-{path}-qd{depth}-read' for path in ('split', 'alone') for depth in (1, 32)))
FUNCTIONS_SHOWN = 'path null-split-qd32-read'


def function_rows(samples):
    for sample in samples:
        if sample['case'] != FUNCTIONS_SHOWN:
            continue
        ranked = sorted(sample['functions'].items(),
                        key=lambda item: (path.ORDER.index(item[1]['stage']),
                                          -item[1]['instructions']))
        for name, values in ranked:
            if values['instructions'] >= 1:
                file, function = name.rsplit(':', 1)
                yield [f'`{function}`', f'`{file}`', values['stage'],
                       f"{values['instructions']:.0f}"]
        return


def about_run(bench, command):
    about = machine()
    return (f"- Machine: {about['cpus']} × {about['cpu']}, {about['system']}, kernel "
            f"{about['kernel']}\n- Date: {time.strftime('%Y-%m-%d')}\n"
            f"- Command: `{command}`\n- Other programs used "
            f"{bench.others_percent():.1f} % of the machine meanwhile\n- Turns done "
            f"again because the CPUs were moved: {bench.moved}")


def about_part(bench, command, old):
    """What is said of the run of all cases, and a line for each command that measured some anew."""
    begin = f'- Measured later: `{command}`'
    lines = [line for line in old.splitlines() if not line.startswith(begin)]
    return '\n'.join([*lines, f"{begin}, {time.strftime('%Y-%m-%d')}; other programs used "
                              f"{bench.others_percent():.1f} %, {bench.moved} turns done again"])


def rows_of(text):
    """The rows of the tables in a fragment: (section, cells)."""
    section = ''
    for line in text.splitlines():
        if line.startswith('### '):
            section = line.removeprefix('### ')
        elif line.startswith('| '):
            cells = [cell.strip() for cell in line[1:-1].split('|')]
            if cells not in (TARGET_HEADER, MEASURED_HEADER, STAGE_HEADER, FUNCTION_HEADER):
                yield section, cells


def merge(old, rows, left):
    """The rows of a table, and those of the old one whose first cells are of no new row."""
    table = {tuple(cells[:left]): cells for _, cells in rows_of(old)}
    table.update((tuple(row[:left]), row) for row in rows)
    return list(table.values())


FUNCTION_HEADER = ['function', 'file', 'stage', 'instructions']


def fragments(bench, summary, command, old=None):
    """
    What goes between the marks of the document, by their names. old: what is there, when only some
    cases were run: what they say nothing of stays.
    """
    others, parts = None, {}
    if old:
        others = {}
        for section, cells in rows_of(old['targets']):
            others.setdefault((section, cells[0]), []).append(cells)
    tables = [f'### {section}\n\n' + markdown_table(TARGET_HEADER, rows)
              for section, rows in target_rows(summary, others) if rows]
    missing = [f'- Not available: {what}: {reason}' for what, reason in bench.unavailable.items()]
    measured, stages = list(measured_rows(summary)), list(stage_rows(bench.samples))
    functions = list(function_rows(bench.samples))
    if old:
        missing += [line for line in old['targets'].splitlines()
                    if line.startswith('- Not available') and line not in missing]
        measured = merge(old['measured'], measured, 2)
        stages = merge(old['stages'], stages, 1)
        functions = functions or [cells for _, cells in rows_of(old['functions'])]
    parts['machine'] = (about_part(bench, command, old['machine']) if old
                        else about_run(bench, command))
    parts['targets'] = '\n\n'.join(tables + missing)
    parts['measured'] = markdown_table(MEASURED_HEADER, measured, 2)
    stages = sorted((row for row in stages if row[0] in STAGES_SHOWN),
                    key=lambda row: STAGES_SHOWN.index(row[0]))
    parts['stages'] = markdown_table(STAGE_HEADER, stages)
    parts['functions'] = markdown_table(FUNCTION_HEADER, functions, 3)
    return parts


def read_document(file_path):
    """What is between the marks, by their names."""
    with open(file_path, encoding='utf-8') as file:
        return dict(re.findall(r'<!-- begin (\w+) -->\n(.*?)\n?<!-- end \1 -->', file.read(),
                               flags=re.DOTALL))


def fill_document(file_path, parts):
    """Replaces what is between <!-- begin NAME --> and <!-- end NAME -->."""
    with open(file_path, encoding='utf-8') as file:
        text = file.read()
    for name, part in parts.items():
        text, count = re.subn(f'(<!-- begin {name} -->\n).*?(<!-- end {name} -->)',
                              lambda match, part=part: match.group(1) + part + '\n' + match.group(2),
                              text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f'{file_path}: {count} marks of the name {name}')
    with open(file_path, 'w', encoding='utf-8') as file:
        file.write(text)
