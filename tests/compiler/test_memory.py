from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import psutil

from xamc.compiler.memory import MemorySampler, available_bytes, process_tree, pss_bytes, tree_pss_bytes

MIB = 2**20
CHILD = "import sys; b = bytearray(b'x') * (60 << 20); print('ready', flush=True); sys.stdin.read()"


def _child() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_children_add_up() -> None:
    before = tree_pss_bytes(os.getpid())
    with _child() as first, _child() as second:
        assert {first.pid, second.pid} <= set(process_tree(os.getpid()))
        both = tree_pss_bytes(os.getpid()) - before
        assert 120 * MIB < both < 200 * MIB
        first.communicate()
        second.communicate()
    assert tree_pss_bytes(os.getpid()) - before < 40 * MIB


def test_short_peak_is_seen_and_each_stage_has_its_own() -> None:
    with MemorySampler(interval=0.01) as sampler:
        sampler.start_stage()
        block = np.ones(80 * MIB, np.uint8)
        time.sleep(1.0)  # samples take at most a tenth of the time, so a large process has a few a second
        del block
        first = sampler.stage_peak()
        sampler.start_stage()
        second = sampler.stage_peak()
    assert first - second > 70 * MIB
    assert sampler.peak >= first


def test_gone_process_counts_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert pss_bytes(process.pid) == 0
    assert process_tree(process.pid) == [process.pid]


def test_available_is_what_the_machine_has_or_less() -> None:
    assert 0 < available_bytes() < psutil.virtual_memory().available * 1.2
