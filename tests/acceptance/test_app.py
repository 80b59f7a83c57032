"""Apps of users under fault: whole sessions on a real browser, through the public flags and fixtures alone."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import duckdb  # imported before pytester forgets modules: DuckDB cannot be imported twice
import psutil
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser
from tests.acceptance.interrupting import interrupted
from tests.models import scaled_sum

pytestmark = [
    pytest.mark.skipif(
        browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
    ),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="Playwright is not installed"),
]

CACHE = cache_root()  # before pytester moves HOME
APPS = Path(__file__).parent.parent / "app" / "apps"
LANE = "--webaccel-lanes=chromium:webgpu"
ALONE = ("-p", "no:playwright")  # without pytest-playwright, where it is installed


@pytest.fixture
def session(pytester, monkeypatch, tmp_path):
    """Run a suite; return its result, after a look for what it left."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def run(*arguments):
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", LANE, "--webaccel-db=runs.duckdb", *arguments)
        assert not left(tmp_path)
        return result

    return run


def left(folder: Path) -> list[object]:
    """Return what a run left: processes that know the folder, files in it."""
    processes = psutil.process_iter(["cmdline"])
    running = [process for process in processes if f"{folder}/webaccel" in " ".join(process.info["cmdline"] or ())]
    return [*running, *folder.glob("webaccel*")]


def rows(pytester, query):
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        return connection.execute(query).fetchall()


def plain_app(pytester, script=""):
    folder = pytester.mkdir("app")
    (folder / "index.html").write_text(f"<!doctype html><title>plain</title><body>up</body><script>{script}</script>")
    return folder


EXAMPLES = """
    import pathlib
    import shutil

    import pytest

    APPS = pathlib.Path({apps!r})
    QUESTION = "answer([1, 2, 3], [1, 2, 3])"

    @pytest.fixture
    def webaccel_app(tmp_path, request):
        folder = shutil.copytree(APPS / request.param, tmp_path / request.param)
        shutil.copy("model.onnx", folder)
        return folder

    def answers(page):
        return page.evaluate(QUESTION) == [4, 8, 12]

    CASES = [("ignoring", "device_lost"), ("handling", "device_lost"), ("handling", "device_destroyed")]

    @pytest.mark.parametrize(("webaccel_app", "fault"), CASES, indirect=["webaccel_app"])
    def test_app(webaccel_page, webaccel_faults, fault):
        webaccel_faults.inject(fault, healthy=answers, within_ms=40_000)
        webaccel_faults.expect_recovery(answers, within_ms=4_000)
"""


def test_an_app_that_ignores_device_loss_is_caught_and_one_that_handles_it_passes(pytester, session):
    (pytester.path / "model.onnx").write_bytes(scaled_sum())
    pytester.makepyfile(EXAMPLES.format(apps=str(APPS)))
    result = session(*ALONE, "-n", "2", "--webaccel-report=report.html")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*RecoveryError: *ignoring: not recovered from device_lost within 4000 ms*"])
    found = rows(
        pytester,
        "select fault, test_id like '%handling%', strategy, outcome, lane, point, symptom, evidence, attempts, "
        "total_ms > detect_ms, detect_ms > 0 and detect_ms < 2000, total_ms >= 4000 from recoveries",
    )
    common = ("chromium:webgpu", "app", "device_lost", "software", 0, True, True)
    assert sorted(found) == [
        ("device_destroyed", True, "app", "recovered", *common, False),
        ("device_lost", False, "app", "failed", *common, True),
        ("device_lost", True, "app", "recovered", *common, False),
    ]
    lanes = rows(pytester, "select distinct lane, browser_version != '' from lanes")
    assert lanes == [("chromium:webgpu", True)]
    page = (pytester.path / "report.html").read_text()
    assert "device_destroyed" in page
    assert "not recovered from device_lost" in page


CRASHES = """
    import pytest
    from playwright.sync_api import Page, expect

    def up(page):
        return page.locator("body").inner_text() == "up"

    def test_comes_back(webaccel, webaccel_page, webaccel_faults):
        assert isinstance(webaccel_page, Page)
        expect(webaccel_page).to_have_title("plain")
        assert webaccel_page.evaluate("crossOriginIsolated && new SharedArrayBuffer(8).byteLength") == 8
        for fault, kind in [("page_reload", None), ("component_timeout", "stopped"), ("page_crash", None)]:
            webaccel_faults.inject(fault, kind=kind, healthy=up)
            if fault == "page_crash":
                webaccel_page.webaccel_reopen()
            webaccel_faults.roll_back()
            assert webaccel_faults.expect_recovery(up, within_ms=20_000) > 0
        webaccel_faults.inject("browser_crash")
        webaccel_page.webaccel_reopen()
        assert webaccel_faults.expect_recovery(up, within_ms=20_000) > 0
        expect(webaccel_page).to_have_title("plain")
        assert webaccel.statistics()["starts"] == 1, "the lane's own browser is another one"

    def test_does_not(webaccel_page, webaccel_faults):
        webaccel_faults.inject("page_crash")
        with pytest.raises(Exception, match=r"webaccel_page\\.webaccel_reopen\\(\\)"):
            webaccel_faults.expect_recovery(up, within_ms=200)
        webaccel_page.webaccel_reopen()
        webaccel_faults.inject("component_timeout", kind="page_loop")
        with pytest.raises(Exception, match="had not returned 3 s after its time"):
            webaccel_faults.expect_recovery(lambda: webaccel_page.evaluate("true"), within_ms=200)
"""


def test_pages_come_back_by_a_users_hand_and_one_that_hangs_is_ended(pytester, session):
    plain_app(pytester)
    pytester.makepyfile(CRASHES)
    session(*ALONE, "--webaccel-app=app").assert_outcomes(passed=2)
    found = rows(pytester, "select fault, outcome, rungs, attempts, symptom from recoveries order by outcome, fault")
    assert found == [
        ("component_timeout", "failed", "", 0, "heartbeat_missed"),
        ("page_crash", "failed", "", 0, "page_crashed"),
        ("browser_crash", "recovered", "reopen", 1, "browser_exited"),
        ("component_timeout", "recovered", "", 0, "heartbeat_missed"),
        ("page_crash", "recovered", "reopen", 1, "page_crashed"),
        ("page_reload", "recovered", "", 0, "page_replaced"),
    ]


#: Asks its server again and again, over fetch, and shows how long the last answer took.
ASKING = """
    async function ask() {
      const begun = performance.now();
      try {
        await fetch("index.html", { cache: "no-store", signal: AbortSignal.timeout(1000) });
        globalThis.took = performance.now() - begun;
        globalThis.answered = (globalThis.answered ?? 0) + 1;
      } catch {
        globalThis.failed = (globalThis.failed ?? 0) + 1;
      }
      setTimeout(ask, 5);
    }
    ask();
"""

NETWORK = """
    import contextlib
    import functools
    import http.server
    import threading

    import pytest

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

    @pytest.fixture(scope="session")
    def address():
        handler = functools.partial(Handler, directory="app")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://localhost:{server.server_port}/index.html?query#fragment"
            server.shutdown()

    @pytest.fixture(params=["folder", "address"])
    def webaccel_app(request, webaccel_app, address):
        return webaccel_app if request.param == "folder" else address

    def answered(page):
        return page.evaluate("const before = globalThis.answered ?? 0; answered = 0; before > 0")

    def test_connections(webaccel_page, webaccel_faults, webaccel_app):
        if "://" in str(webaccel_app):
            assert webaccel_page.url == webaccel_app
        for fault in ("connection_lost", "connection_stalled", "network_latency"):
            webaccel_faults.inject(fault, healthy=answered)
            if fault == "connection_stalled":
                webaccel_faults.expect_recovery(lambda page: page.evaluate("globalThis.failed > 0"), within_ms=5000)
            elif fault == "network_latency":
                webaccel_faults.expect_recovery(lambda page: page.evaluate("took > 300"), within_ms=5000)
            else:
                webaccel_faults.expect_recovery(answered, within_ms=5000)
            webaccel_faults.roll_back()
"""


def test_an_apps_own_connections_are_broken_wherever_it_is_served(pytester, session):
    plain_app(pytester, ASKING)
    pytester.makepyfile(NETWORK)
    session(*ALONE, "--webaccel-app=app").assert_outcomes(passed=2)
    found = rows(pytester, "select fault, symptom, outcome, count(*) from recoveries group by all order by 1")
    assert found == [
        ("connection_lost", "socket_closed", "recovered", 2),
        ("connection_stalled", "heartbeat_missed", "recovered", 2),
        ("network_latency", "connection_slow", "recovered", 2),
    ]


def test_what_is_not_known_is_told_so_and_what_cannot_be_meant_is_refused(pytester, session):
    plain_app(pytester)
    pytester.makepyfile(
        """
        import asyncio

        import pytest

        def never(page):
            raise KeyError("the app's own error")

        def test_never_healthy(webaccel_page, webaccel_faults):
            webaccel_faults.inject("page_reload", healthy=never, within_ms=100)

        def test_nobody_asks(webaccel_page, webaccel_faults):
            webaccel_faults.inject("page_reload")
            with pytest.raises(Exception) as raised:
                webaccel_faults.expect_recovery(never, within_ms=100)
            assert isinstance(raised.value.__cause__, KeyError)
            webaccel_faults.inject("page_reload")

        def test_loop_is_free_again():
            assert asyncio.run(asyncio.sleep(0, "free")) == "free"

        def test_mistakes(webaccel_page, webaccel_faults):
            for call, message in [
                (lambda: webaccel_faults.inject("component_error"), "no meaning for an app"),
                (lambda: webaccel_faults.inject("worker_crash"), "no meaning for an app"),
                (lambda: webaccel_faults.inject("device_destroyed"), "holds no device"),
                (lambda: webaccel_faults.inject("page_crahs"), "page_crash"),
                (lambda: webaccel_faults.inject("page_reload", kind="soft"), "is of one kind"),
                (lambda: webaccel_faults.inject("component_timeout", kind="loop"), "page_loop"),
                (lambda: webaccel_faults.inject("page_reload", recovery="simple"), "recovers by itself"),
                (lambda: webaccel_faults.plan("page_reload"), "cannot be planned for an app"),
                (lambda: webaccel_faults.expect_recovery(never, within_ms=0), "within_ms=0"),
                (lambda: webaccel_faults.expect_recovery(never, within_ms=9), "without a fault before it"),
            ]:
                with pytest.raises(Exception, match=message):
                    call()
        """
    )
    result = session(*ALONE, "--webaccel-app=app")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*page_reload was not caused, since the app was not healthy before it within 100 ms*"])
    found = rows(pytester, "select fault, outcome, detail from recoveries order by fault, outcome, detail")
    assert [each[:2] for each in found] == [
        ("component_error", "unknown"),
        ("device_destroyed", "unknown"),
        ("page_reload", "failed"),
        ("page_reload", "unknown"),
        ("page_reload", "unknown"),
        ("worker_crash", "unknown"),
    ]
    raised, never, nobody = (each[2] for each in found[2:5])
    assert 'last raised KeyError: "the app\'s own error"' in raised
    assert "not healthy before it" in never
    assert nobody == "the test did not ask whether the app recovered"


def test_an_app_that_cannot_be_shown_says_why(pytester, session):
    plain_app(pytester)
    pytester.mkdir("empty")
    pytester.makepyfile(
        """
        import contextlib
        import http.server
        import socket
        import threading

        import pytest

        @contextlib.contextmanager
        def refused():
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            yield f"http://127.0.0.1:{port}/"

        @contextlib.contextmanager
        def not_found():
            with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                yield f"http://127.0.0.1:{server.server_port}/no-such-page"
                server.shutdown()

        SOURCES = {"refused": refused(), "not_found": not_found()}

        @pytest.fixture
        def webaccel_app(request):
            with SOURCES.get(request.param, contextlib.nullcontext(request.param)) as app:
                yield app

        @pytest.mark.parametrize(
            "webaccel_app", ["missing", "empty", "ftp://host", "refused", "not_found", None], indirect=True
        )
        def test_app(webaccel_page):
            assert False, "there is no app"

        @pytest.mark.fault("page_crash")
        def test_planned(webaccel_page):
            assert False, "no fault can be planned for an app"
        """
    )
    result = session(*ALONE, "-rs", "--webaccel-report=report.html")
    result.assert_outcomes(skipped=1, errors=6)
    result.stdout.fnmatch_lines_random(
        [
            "*app 'missing': the folder is not there*",
            "*app 'empty': the folder has no index.html; it has nothing*",
            "*app 'ftp://host' is no address*",
            "*app http://127.0.0.1:*/: nothing answers at 127.0.0.1 port *",
            "*app http://127.0.0.1:*/no-such-page: *answered with status 404*",
            "*SKIPPED*no app is given: --webaccel-app takes the folder*",
            "*a planned fault strikes a webaccel.run(...), and the app runs by itself*inject('page_crash')*",
        ]
    )
    assert "INTERNALERROR" not in result.stdout.str()
    strict = session(*ALONE, "--webaccel-strict", "-k", "None")
    strict.assert_outcomes(errors=1)


def test_lanes_that_have_no_page_for_playwright_are_skipped_with_the_reason(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    plain_app(pytester)
    pytester.makepyfile("def test_app(webaccel_page, webaccel_faults): pass")
    arguments = (*ALONE, "-rs", "--webaccel-app=app", "--webaccel-lanes=fake:webgpu")
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*webaccel_page is not to be had on fake:webgpu: the fake browser has no page*"])
    pytester.makeconftest(
        """
        import importlib.util

        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "playwright" else found(name, package)
        """
    )
    result = pytester.runpytest_subprocess(*arguments[:-1], "--webaccel-lanes=chromium:cpu")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*webaccel_page needs Playwright: pip install 'pytest-webaccel[[]page]'*"])


@pytest.mark.skipif(importlib.util.find_spec("pytest_playwright") is None, reason="pytest-playwright is not installed")
def test_pytest_playwright_in_the_same_session_shares_its_playwright(pytester, session):
    plain_app(pytester)
    pytester.makepyfile(
        """
        def test_theirs(playwright):
            assert playwright.chromium

        def test_ours(webaccel_page, playwright):
            assert webaccel_page.title() == "plain"
        """
    )
    session("--webaccel-app=app").assert_outcomes(passed=2)


def test_an_interrupt_while_recovery_is_awaited_leaves_nothing(pytester, session, tmp_path):
    del session  # its set-up is what is wanted
    plain_app(pytester)
    pytester.makepyfile(
        """
        import pathlib

        def never(page):
            page.title()
            pathlib.Path("asking").touch()

        def test_app(webaccel_page, webaccel_faults):
            webaccel_faults.inject("page_reload")
            webaccel_faults.expect_recovery(never, within_ms=100_000)
        """
    )
    arguments = (*ALONE, LANE, "--webaccel-app=app", "--webaccel-db=runs.duckdb")
    session_id = interrupted(pytester, "asking", arguments)
    assert rows(pytester, "select fault, outcome, detail from recoveries") == [
        ("page_reload", "unknown", "interrupted before its end")
    ]
    assert not left(tmp_path)
    members = [child for child in psutil.process_iter(["cmdline"]) if os.getsid(child.pid) == session_id]
    _, alive = psutil.wait_procs(members, timeout=5)
    assert not alive, "Playwright's own process ends, too, a moment after ours"
