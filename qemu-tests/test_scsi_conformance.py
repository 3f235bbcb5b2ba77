# SPDX-License-Identifier: BSD-3-Clause
"""libiscsi's conformance suite (iscsi-test-cu) on our disks, in a guest, through /dev/sg. A test
that passes but says [SKIPPED] counts as skipped."""

import re
from collections import Counter

import pytest

from scsi_guest import boot_scsi, sg_node

SIZE = 100 << 20
DEADLINE = 300          # seconds
LINES_MAX = 10          # of a test's messages

# Why tests are skipped, and which ones: no others may be. docs/scsi.md has more about it.
ISCSI_ONLY = """
    CompareAndWrite.InvalidDataOutSize
    MultipathIO.CompareAndWriteAsync MultipathIO.Reset
    ProutPreempt.RemoveRegistration
    ProutReserve.AccessEA ProutReserve.AccessEAAR ProutReserve.AccessEARO ProutReserve.AccessWE
    ProutReserve.AccessWEAR ProutReserve.AccessWERO ProutReserve.OwnershipEA
    ProutReserve.OwnershipEAAR ProutReserve.OwnershipEARO ProutReserve.OwnershipWE
    ProutReserve.OwnershipWEAR ProutReserve.OwnershipWERO
    Reserve6.2Initiators Reserve6.ITNexusLoss Reserve6.LUNReset Reserve6.Logout
    Reserve6.TargetColdReset Reserve6.TargetWarmReset
    iSCSIResiduals.Read10Invalid iSCSIResiduals.Read10Residuals iSCSIResiduals.Read12Residuals
    iSCSIResiduals.Read16Residuals iSCSIResiduals.Write10Residuals iSCSIResiduals.Write12Residuals
    iSCSIResiduals.Write16Residuals iSCSIResiduals.WriteVerify10Residuals
    iSCSIResiduals.WriteVerify12Residuals iSCSIResiduals.WriteVerify16Residuals
    iSCSIcmdsn.iSCSICmdSnTooHigh iSCSIcmdsn.iSCSICmdSnTooLow iSCSIdatasn.iSCSIDataSnInvalid
"""
NOT_REMOVABLE = """
    PreventAllow.2ITNexuses PreventAllow.ColdReset PreventAllow.Eject PreventAllow.ITNexusLoss
    PreventAllow.LUNReset PreventAllow.Logout PreventAllow.Simple PreventAllow.WarmReset
    StartStopUnit.Simple
"""
NOT_WRITE_PROTECTED = " ReadOnly.ReadOnlySBC "      # test_write_protected() runs it
NOT_OFFERED = " Reserve6.Simple "           # RESERVE(6) and RELEASE(6), of SPC-2
ALWAYS = ISCSI_ONLY + NOT_REMOVABLE + NOT_WRITE_PROTECTED + NOT_OFFERED
# On a disk with one block in each physical one.
SMALL_BLOCKS = """
    WriteSame10.InvalidDataOutSize WriteSame10.UnmapUnaligned
    WriteSame16.InvalidDataOutSize WriteSame16.UnmapUnaligned
"""
ONE_PATH = " MultipathIO.Simple MultipathIO.CompareAndWrite "
# Without --allow-sanitize; and with it as well, since SANITIZE is not offered.
SANITIZE = """
    Sanitize.BlockErase Sanitize.CryptoErase Sanitize.ExitFailureMode
    Sanitize.InvalidServiceAction Sanitize.Overwrite Sanitize.Readonly Sanitize.Reservations
    Sanitize.Reset
"""
# For iSCSI only. The suite dies in the last one on any other disk, when SANITIZE is allowed.
SANITIZE_RESERVED = """
    Sanitize.BlockEraseReserved Sanitize.CryptoEraseReserved Sanitize.OverwriteReserved
"""
# The last runs first. MultipathIO takes no unit attentions, such as MODE PARAMETERS CHANGED, which
# other tests leave for the second path.
ALL_BUT_SANITIZE_RESERVED = ("ALL.[!MS]*,ALL.Mandatory,ALL.ModeSense6,ALL.StartStopUnit,"
                             "ALL.Sanitize.*[!d],ALL.MultipathIO")
# Bytes of 256 blocks: with several blocks in a physical one the suite takes no other number. Its
# GetLBAStatus.UnmapSingle asks for LBA i + 1 and wants the first extent to begin with the next
# physical block; it begins where it was asked for (SBC-3 §5.4).
LARGE = 131072

TEST = re.compile(r"^(?:Suite: (\S+)|  Test: (\S+) \.\.\.)", re.M)


def results(output: str) -> dict[str, tuple[str, str]]:
    """How each test ended (passed, failed or skipped), and what it said."""
    ends = {}
    suite = None
    marks = [*TEST.finditer(output)]
    for mark, following in zip(marks, [*marks[1:], None]):
        if mark.group(1):
            suite = mark.group(1)
            continue
        text = output[mark.start():following.start() if following else len(output)]
        text = text.split("\nRun Summary:")[0]
        if not re.search(r"(?:\.\.\.|^)passed$", text, re.M):
            end = "failed"
        else:
            end = "skipped" if "[SKIPPED]" in text else "passed"
        ends[f"{suite}.{mark.group(2)}"] = (end, text)
    return ends


def run_suite(guest, tests: str, options: str, nodes: list[str]) -> dict[str, tuple[str, str]]:
    """Runs tests of the suite; returns what results() does."""
    output = guest.run(f"""
        iscsi-test-cu --dataloss {options} --test '{tests}' {' '.join(nodes)} >/tmp/suite 2>&1 || :
        awk '/^Suite:|^  Test:/ {{ lines = 0 }}
            /^(passed|FAILED|Run Summary|Tests completed)/ || /SKIPPED/ || lines++ < {LINES_MAX}' \\
            /tmp/suite | cut -c1-300
    """)
    assert "Tests completed" in output, output[-2000:]
    return results(output)


def check(found: dict[str, tuple[str, str]], skips: str, passed: int) -> str:
    """Nothing failed, and only what has a reason was skipped; returns the score."""
    counts = Counter(end for end, _ in found.values())
    score = ", ".join(f"{counts[end]} {end}" for end in ("passed", "failed", "skipped"))
    reasons = set(skips.split())
    wrong = {name: text for name, (end, text) in found.items()
             if end == "failed" or (end == "skipped") != (name in reasons)}
    assert not wrong, f"{score}\n{' '.join(wrong)}\n{''.join(wrong.values())}"
    assert counts["passed"] == passed, score
    return score


def make_disk(vhostd, physical: int = 512) -> None:
    vhostd.rpc("bdev_malloc_create", name="disk", num_blocks=SIZE // 512, block_size=512,
               physical_block_size=physical)


@pytest.mark.parametrize("physical, tests, options, skips, passed", [
    (LARGE, "ALL", "", ALWAYS + ONE_PATH + SANITIZE + SANITIZE_RESERVED, 171),
    (512, "ALL", "", ALWAYS + SMALL_BLOCKS + ONE_PATH + SANITIZE + SANITIZE_RESERVED, 167),
    (LARGE, ALL_BUT_SANITIZE_RESERVED, "--allow-sanitize", ALWAYS + SANITIZE, 173),
], ids=["large-blocks", "small-blocks", "two-paths-sanitize"])
def test_suite(vhostd, boot, capsys, physical, tests, options, skips, passed):
    """All of it; the last time with a second path: another controller on the disk."""
    make_disk(vhostd, physical)
    paths = 2 if options else 1
    sockets = [vhostd.serve_scsi({0: "disk"}, f"path{number}") for number in range(paths)]
    luns = [f"{number}:0:0:0" for number in range(paths)]
    guest = boot_scsi(boot, sockets, luns, cpus=2)
    nodes = [sg_node(guest, lun) for lun in luns]
    score = check(run_suite(guest, tests, options, nodes), skips, passed)
    with capsys.disabled():
        print(f"\niscsi-test-cu --dataloss {options} --test '{tests}' {' '.join(nodes)}: {score}")


def test_write_protected(vhostd, boot):
    """What the suite has for a disk that cannot be written: SWP in the control mode page."""
    make_disk(vhostd)
    guest = boot_scsi(boot, [vhostd.serve_scsi({0: "disk"})], ["0:0:0:0"])
    node = sg_node(guest, "0:0:0:0")
    guest.run(f"sg_wr_mode --page=0xa --contents=0,0,0,0,8 --mask=0,0,0,0,8 {node}")
    check(run_suite(guest, "ALL.ReadOnly", "", [node]), "", 1)
