"""The node tests of ``onnx``, each on every lane of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.conformance import EXPECTATIONS
from pytest_webaccel.conformance.cases import catalogue
from pytest_webaccel.conformance.expectations import Expectations
from pytest_webaccel.conformance.suite import LaneSuite
from pytest_webaccel.errors import WebAccelError
from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.scheduling.session import session_of
from pytest_webaccel.terms import Strategy

if TYPE_CHECKING:
    from pytest_webaccel.conformance.cases import NodeCase
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the test one item for each node test."""
    try:
        cases = catalogue()
    except WebAccelError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    metafunc.parametrize("case", cases, ids=str)


@pytest.fixture(scope="module")
def expectations(pytestconfig: pytest.Config) -> Expectations:
    """The file of known failures, the package's own unless the user named one."""
    return Expectations.read(session_of(pytestconfig).settings.expectations or EXPECTATIONS)


@pytest.fixture
def webaccel_strategy() -> Strategy:
    """No recovery: a model that breaks its lane would break it again; the lane is mended for the next test."""
    return Strategy.NONE


@pytest.fixture
def suite(_webaccel_worker: Worker, _webaccel_lease: Lease) -> LaneSuite:
    """The leased lane, for tests to run on."""
    return LaneSuite(_webaccel_worker, _webaccel_lease)


def test_node(suite: LaneSuite, expectations: Expectations, case: NodeCase) -> None:
    """The lane answers as ONNX says, or fails as it is known to."""
    expected = expectations.of(suite.place, case.name)
    verdict = suite.run(case, expected)
    if verdict.kind is expected.kind:
        if verdict.kind is not Kind.AGREES:
            pytest.xfail(f"{verdict.kind}: {verdict.detail}")
        return
    section = expectations.stand_in(suite.place)
    by = f"[{section}] of the expectations" if section else "having no section in the expectations"
    if (seen := expectations.seen.get(section) if section else None) is not None and seen != suite.seen:
        by += f" (seen with {seen}; here {suite.seen})"
    remedy = "If this is how it is now, take it over: python -m pytest_webaccel expectations DB FILE."
    if verdict.kind is Kind.AGREES:
        pytest.fail(f"{suite.place}: agrees, where {expected.kind} was expected by {by}. {remedy}", pytrace=False)
    pytest.fail(
        f"{suite.place}: {verdict.kind}, where {expected.kind} was expected by {by}.\n{verdict.detail}\n"
        f"The test's files: {case.folder}\n{remedy}",
        pytrace=False,
    )
