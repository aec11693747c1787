"""When memory is short, on a machine and in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from dre_ssod.memory import machine

MEMINFO = """MemTotal:        1000 kB
MemFree:           20 kB
MemAvailable:    {} kB
HugePages_Total: 0
"""


@pytest.mark.parametrize(
    ("available", "limit", "used", "held", "short"),
    [
        (300, None, 0, 600, False),
        (199, None, 0, 600, True),
        # Others have it.
        (199, None, 0, 150, False),
        (300, "max", 900, 600, False),
        # 100 of what is used are pages of files.
        (300, "1000", 850, 600, False),
        (300, "1000", 950, 600, True),
    ],
)
def test_memory_is_short_on_a_machine_or_in_a_container(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    available: int,
    limit: str | None,
    used: int,
    held: int,
    short: bool,
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO.format(available))
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 100\n")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    # Sizes of a machine are in KiB, those of a container in bytes.
    monkeypatch.setattr(machine, "resident_bytes", lambda: held * (1 if limit == "1000" else 1024))
    assert machine.is_short() == short


def test_where_nothing_is_said_of_memory_it_is_not_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    assert not machine.is_short()
