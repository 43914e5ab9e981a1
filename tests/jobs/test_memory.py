from __future__ import annotations

import mmap
import subprocess
import sys
import time

import psutil

from xamc.jobs.memory import MemorySampler, available_bytes, process_tree, pss_bytes, tree_pss_bytes

MIB = 2**20
PARENT = """
import subprocess, sys
code = "import sys; b = bytearray(b'x') * (60 << 20); print('ready', flush=True); sys.stdin.read()"
children = [subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) for _ in range(2)]
for child in children:
    child.stdout.readline()
print(*(child.pid for child in children), flush=True)
sys.stdin.readline()
for child in children:
    child.communicate()
print("gone", flush=True)
sys.stdin.readline()
"""


def test_children_add_up() -> None:
    """Of a process of its own: what this one shares with other workers of the session changes its PSS."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=-1, stdout=-1, text=True, bufsize=1) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        pids = {int(pid) for pid in parent.stdout.readline().split()}
        assert len(pids) == 2 and pids <= set(process_tree(parent.pid))
        assert 120 * MIB < tree_pss_bytes(parent.pid) < 200 * MIB
        parent.stdin.write("\n")
        assert parent.stdout.readline() == "gone\n"
        assert tree_pss_bytes(parent.pid) < 40 * MIB
        parent.stdin.write("\n")


def test_short_peak_is_seen_and_each_stage_has_its_own() -> None:
    with MemorySampler(interval=0.01) as sampler:
        sampler.start_stage()
        before = sampler.peak
        # pages of its own: the heap of a test process may have 80 MiB to spare, then its size would not change
        block = mmap.mmap(-1, 80 * MIB)
        for _ in range(80):
            block.write(bytes(MIB))
        # samples take at most a tenth of the time, so a large process has a few a second; fewer on a busy machine
        for _ in range(600):
            if sampler.peak - before > 70 * MIB:
                break
            time.sleep(0.1)
        block.close()
        first = sampler.stage_peak()
        for _ in range(600):  # a sample that was under way may still count the block to the new stage
            sampler.start_stage()
            second = sampler.stage_peak()
            if first - second > 70 * MIB:
                break
            time.sleep(0.1)
    assert first - second > 70 * MIB
    assert sampler.peak >= first


def test_gone_process_counts_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert pss_bytes(process.pid) == 0
    assert process_tree(process.pid) == [process.pid]


def test_available_is_what_the_machine_has_or_less() -> None:
    assert 0 < available_bytes() < psutil.virtual_memory().available * 1.2
