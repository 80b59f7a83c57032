from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.declarations import OPTIONS
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.options import Settings
from pytest_webaccel.terms import Backend, Browser, Fault, FaultPlan, FaultPoint, Lane, Mode, Strategy

plans = st.builds(
    FaultPlan,
    fault=st.sampled_from(Fault),
    at=st.sampled_from(FaultPoint),
    times=st.integers(1, 9),
    recovery=st.none() | st.sampled_from(Strategy),
)
lanes = st.builds(Lane, st.sampled_from(Browser), st.sampled_from(Backend))
paths = st.none() | st.text("abc/.", min_size=1, max_size=8).map(Path)
every_setting = st.builds(
    Settings,
    browsers=st.none() | st.lists(st.sampled_from(Browser), min_size=1).map(tuple),
    backends=st.none() | st.lists(st.sampled_from(Backend), min_size=1).map(tuple),
    mode=st.sampled_from(Mode),
    faults=st.lists(plans, max_size=3).map(tuple),
    recovery=st.sampled_from(Strategy),
    lanes=st.none() | st.lists(lanes, min_size=1).map(tuple),
    db=paths,
    report=paths,
    seed=st.integers(0, 2**64 - 1),
    strict=st.booleans(),
    min_success=st.none() | st.floats(0, 1),
    max_recovery_ms=st.none() | st.floats(0, 1e9),
    ort=st.lists(st.text("abc/.", min_size=1, max_size=8).map(Path), max_size=2).map(tuple),
    app=st.none() | st.text(min_size=1, max_size=8),
    headed=st.booleans(),
    doctor=st.booleans(),
    executable=paths,
    given=st.frozensets(st.sampled_from([option.field for option in OPTIONS])),
)


@given(every_setting)
def test_settings_ride_to_a_worker_unchanged(settings):
    import execnet

    assert Settings.from_json(execnet.loads(execnet.dumps(settings.to_json()))) == settings


def read(pytester: pytest.Pytester, *arguments: str, **environment: str) -> Settings:
    return Settings.from_config(pytester.parseconfig(*arguments), environment)


def test_without_anything_said_whatever_works_is_used(pytester):
    settings = read(pytester)
    assert (settings.browsers, settings.backends, settings.lanes) == (None, None, None)
    assert settings.recovery is Strategy.COORDINATED
    assert settings.given == frozenset()


def test_a_seed_is_drawn_anew_each_time(pytester):
    config = pytester.parseconfig()
    assert len({Settings.from_config(config, {}).seed for _ in range(8)}) > 1


def test_every_flag_is_read(pytester):
    settings = read(
        pytester,
        "--webaccel-browser=chromium,fake",
        "--webaccel-backend=webgpu, cpu",
        "--webaccel-lanes=chromium:webgpu,fake:cpu",
        "--webaccel-mode=comparative",
        "--webaccel-fault=browser_crash@before,device_lost",
        "--webaccel-recovery=simple",
        "--webaccel-recovery-budget=20",
        "--webaccel-spares=1",
        "--webaccel-db=runs.duckdb",
        "--webaccel-report=/elsewhere/report.html",
        "--webaccel-seed=7",
        "--webaccel-strict",
        "--webaccel-min-success=0.9",
        "--webaccel-max-recovery-ms=1500",
        "--webaccel-cases=cases",
        "--webaccel-expectations=known.txt",
        "--webaccel-ort=node_modules/onnxruntime-web",
        "--webaccel-ort=other/dist",
        "--webaccel-app=dist",
        "--webaccel-headed",
        "--webaccel-doctor",
        "--webaccel-executable=chrome",
    )
    here = pytester.path
    assert settings == Settings(
        browsers=(Browser.CHROMIUM, Browser.FAKE),
        backends=(Backend.WEBGPU, Backend.CPU),
        lanes=(Lane.parse("chromium:webgpu"), Lane.parse("fake:cpu")),
        mode=Mode.COMPARATIVE,
        faults=(FaultPlan(Fault.BROWSER_CRASH, FaultPoint.BEFORE), FaultPlan(Fault.DEVICE_LOST)),
        recovery=Strategy.SIMPLE,
        budget_s=20.0,
        spares=1,
        db=here / "runs.duckdb",
        report=Path("/elsewhere/report.html"),
        seed=7,
        strict=True,
        min_success=0.9,
        max_recovery_ms=1500.0,
        cases=here / "cases",
        expectations=here / "known.txt",
        ort=(here / "node_modules/onnxruntime-web", here / "other/dist"),
        app=str(here / "dist"),
        headed=True,
        doctor=True,
        executable=here / "chrome",
        given=frozenset(option.field for option in OPTIONS),
    )


def test_an_apps_address_is_kept_and_its_folder_starts_where_it_was_written(pytester):
    assert read(pytester, "--webaccel-app= http://localhost:8080/?x ").app == "http://localhost:8080/?x"
    pytester.mkdir("tests").joinpath("pytest.ini").write_text("[pytest]\nwebaccel_app = ../dist\n")
    assert read(pytester, "-c", "tests/pytest.ini").app == str(pytester.path / "tests/../dist")
    with pytest.raises(ConfigurationError, match="--webaccel-app: neither a folder nor an address"):
        read(pytester, "--webaccel-app=  ")


def test_a_flag_beats_the_environment_which_beats_the_ini_file(pytester):
    pytester.makeini("[pytest]\nwebaccel_seed = 1\nwebaccel_recovery = simple\nwebaccel_mode = comparative\n")
    environment = {"PYTEST_WEBACCEL_SEED": "2", "PYTEST_WEBACCEL_RECOVERY": "none"}
    settings = read(pytester, "--webaccel-seed=3", **environment)
    assert (settings.seed, settings.recovery, settings.mode) == (3, Strategy.NONE, Mode.COMPARATIVE)


def test_a_level_stands_for_its_faults_that_can_strike_at_the_point(pytester):
    faults = read(pytester, "--webaccel-fault=low@after,browser_crash,low@after").faults
    assert faults == (
        FaultPlan(Fault.CONNECTION_LOST, FaultPoint.AFTER),
        FaultPlan(Fault.PAGE_RELOAD, FaultPoint.AFTER),
        FaultPlan(Fault.BROWSER_CRASH),
    )


def test_a_switch_can_be_turned_off_again(pytester):
    assert read(pytester, PYTEST_WEBACCEL_STRICT="yes").strict
    assert not read(pytester, "--no-webaccel-strict", PYTEST_WEBACCEL_STRICT="yes").strict


def test_a_path_in_the_ini_file_starts_from_that_file(pytester, monkeypatch):
    pytester.makeini("[pytest]\nwebaccel_db = runs.duckdb\n")
    below = pytester.mkdir("below")
    config = pytester.parseconfig()
    monkeypatch.chdir(below)
    assert Settings.from_config(config, {}).db == pytester.path / "runs.duckdb"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("browser", "chromum", "unknown browser 'chromum' (known: chromium, chrome"),
        ("browser", "chromum", "did you mean 'chromium'?"),
        ("browser", "chromium,,fake", "empty part"),
        ("backend", "webgl", "did you mean 'webgpu'?"),
        ("lanes", "chromium", "not of the form BROWSER:BACKEND"),
        ("lanes", "chromium:gpu", "lane 'chromium:gpu': unknown backend 'gpu'"),
        ("mode", "stres", "known: basic, comparative"),
        ("fault", "browser_crahs", "did you mean 'browser_crash'?"),
        ("fault", "device_lost@later", "known: before, mid_request"),
        ("fault", "component_error@after", "fault component_error can never fire at after: no request comes after"),
        ("recovery", "simpel", "did you mean 'simple'?"),
        ("recovery-budget", "0", "0 seconds leave no time to recover; to see"),
        ("recovery-budget", "-1", "outside 0 to 86400 seconds"),
        ("seed", "x", "'x' is not a whole number"),
        ("seed", "-1", "outside 0 to"),
        ("min-success", "90%", "'90%' is not a number"),
        ("min-success", "1.1", "outside 0 to 1"),
        ("min-success", "nan", "outside 0 to 1"),
        ("max-recovery-ms", "-5", "outside 0 to 1e+09 ms"),
        ("db", " ", "the path is empty"),
    ],
)
def test_a_bad_value_names_its_source_and_what_would_do(pytester, name, value, words):
    option = next(option for option in OPTIONS if option.name == name)
    with pytest.raises(ConfigurationError) as flag:
        read(pytester, f"{option.flag}={value}")
    assert str(flag.value).startswith(option.flag)
    assert words in str(flag.value)
    with pytest.raises(ConfigurationError) as variable:
        read(pytester, **{option.environment: value})
    assert str(variable.value).startswith(f"environment variable {option.environment}")


@pytest.mark.parametrize("value", ["perhaps", "2"])
def test_a_bad_value_in_the_ini_file_names_key_and_file(pytester, value):
    pytester.makeini(f"[pytest]\nwebaccel_strict = {value}\n")
    with pytest.raises(ConfigurationError, match=rf"webaccel_strict in tox.ini: '{value}' is neither yes nor no"):
        read(pytester)


@given(lane=lanes, settings=every_setting)
def test_settings_admit_exactly_what_no_restriction_excludes(lane, settings):
    excluded = [
        settings.lanes is not None and lane not in settings.lanes,
        settings.browsers is not None and lane.browser not in settings.browsers,
        settings.backends is not None and lane.backend not in settings.backends,
    ]
    assert settings.admits(lane) is not any(excluded)


def test_the_help_names_the_twins_of_every_flag(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = pytester.runpytest_subprocess("--help").stdout.str()
    flat = "".join(text.split())
    for option in OPTIONS:
        assert option.flag in text
        assert f"[{option.ini},{option.environment}]" in flat
