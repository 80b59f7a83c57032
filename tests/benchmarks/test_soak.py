"""A soak in parts: several processes and machines share its numbers, and one file takes them together."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - in the types of fixtures

import pytest

from tests.bench.matrix.state import Log, StateError
from tests.bench.soak import numbers_of, parsed, row_of

ABOUT = {"seed": 1, "lanes": ["chromium:cpu 153"]}


def fault(number: int, **changes: object) -> dict[str, object]:
    counts = dict.fromkeys(("wrong", "duplicated", "lost"), 0)
    return {"number": number, "outcome": "recovered", "answers": 3, "took_s": 1.0, **counts, **changes}


def test_a_part_has_its_own_numbers_of_the_whole():
    assert numbers_of(parsed(["--faults", "10"])) == range(10)
    assert numbers_of(parsed(["--faults", "10", "--part", "4:6"])) == range(4, 6)


@pytest.mark.parametrize("part", ["4", "6:4", "4:4", "4:11", "a:b", "-1:3"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(SystemExit, match=r"expected FIRST:LAST with 0 <= FIRST < LAST <= 10"):
        numbers_of(parsed(["--faults", "10", f"--part={part}"]))


def test_parts_are_joined_once_and_every_machine_is_counted(tmp_path: Path):
    with Log(tmp_path / "part", ABOUT) as part:
        for entry in ({"machine": {"cores": 16}}, fault(1), fault(2, wrong=1), {"left": ["process 5"], "process": "p"}):
            part.append(entry)
    with Log(tmp_path / "whole", ABOUT, keep=False) as whole:
        whole.append({"machine": {"cores": 2}})
        whole.append(fault(0))
    with Log(tmp_path / "whole", ABOUT, keep=False) as whole:
        assert whole.merge(tmp_path / "part", key="number") == 4
        assert whole.merge(tmp_path / "part", key="number") == 0
        row = row_of(whole.whole(), batch=250)
    assert (row["n"], row["wrong"], row["orphans"], row["machines"]) == (3, 1, 1, 2)


def test_a_part_that_found_something_else_of_the_same_fault_is_refused(tmp_path: Path):
    with Log(tmp_path / "part", ABOUT) as part:
        part.append(fault(1, wrong=1))
        part.append(fault(2))
    with Log(tmp_path / "whole", ABOUT) as whole:
        whole.append(fault(1))
        with pytest.raises(StateError, match=r"says otherwise of number 1 than"):
            whole.merge(tmp_path / "part", key="number")
        assert len(whole.whole()) == 1


def test_a_part_of_another_soak_is_refused_and_nothing_is_taken(tmp_path: Path):
    with Log(tmp_path / "part", {**ABOUT, "seed": 2}) as part:
        part.append(fault(1))
    with Log(tmp_path / "whole", ABOUT) as whole:
        with pytest.raises(StateError, match=r"only parts of one are joined"):
            whole.merge(tmp_path / "part", key="number")
        assert whole.whole() == []


@pytest.mark.parametrize(
    ("lanes", "evidence"),
    [
        ({"chromium:webgpu": "153 nvidia hardware"}, "hardware"),
        ({"chromium:webgpu": "153 nvidia hardware", "chromium:cpu": "153 WebAssembly SIMD software"}, "software"),
        ({}, "software"),
    ],
)
def test_a_row_is_of_the_weakest_grade_of_its_lanes(lanes, evidence):
    assert row_of([{"machine": {"lanes": lanes}}, fault(0)], batch=250)["evidence"] == evidence
