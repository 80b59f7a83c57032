from __future__ import annotations

import execnet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.scheduling.binding import WEIGHTS, bind, bind_specs, format_lanes, parse_lanes
from pytest_webaccel.terms import Backend, Browser, Lane

ALL = [Lane(browser, backend) for browser in Browser for backend in Backend]
some_lanes = st.lists(st.sampled_from(ALL), min_size=1, unique=True)
weight = st.floats(0.1, 100)


@given(lanes=some_lanes, workers=st.integers(1, 30), weights=st.dictionaries(st.sampled_from(ALL), weight))
def test_every_lane_is_served_and_no_worker_is_without_one(lanes, workers, weights):
    bound = bind(lanes, workers, weights)
    assert len(bound) == workers
    assert {lane for worker in bound for lane in worker} == set(lanes)
    assert all(bound)
    assert all(len(set(worker)) == len(worker) for worker in bound)


@given(lanes=some_lanes, workers=st.integers(1, 6), weights=st.dictionaries(st.sampled_from(ALL), weight))
def test_with_no_more_workers_than_lanes_the_load_is_within_the_bound_of_lpt(lanes, workers, weights):
    workers = min(workers, len(lanes))
    each = {lane: weights.get(lane, WEIGHTS[lane.backend]) for lane in lanes}
    loads = [sum(each[lane] for lane in worker) for worker in bind(lanes, workers, weights)]
    # Graham 1969: LPT is within 4/3 of the optimum, which is at least these two.
    assert max(loads) <= 4 / 3 * sum(each.values()) / workers + max(each.values()) + 1e-6
    assert sum(loads) == pytest.approx(sum(each.values()))


def test_two_workers_share_three_lanes_by_weight():
    gpu, nn, cpu = (Lane(Browser.CHROMIUM, backend) for backend in (Backend.WEBGPU, Backend.WEBNN, Backend.CPU))
    assert bind([gpu, nn, cpu], 2) == [(gpu,), (nn, cpu)]


def test_a_worker_too_many_helps_the_heaviest_lane():
    gpu, cpu = Lane(Browser.CHROMIUM, Backend.WEBGPU), Lane(Browser.CHROMIUM, Backend.CPU)
    assert bind([cpu, gpu], 3) == [(gpu,), (cpu,), (gpu,)]


def test_without_lanes_no_worker_is_bound():
    assert bind([], 2) == [(), ()]


@pytest.mark.parametrize(("workers", "weights"), [(0, {}), (1, {ALL[0]: 0.0}), (1, {ALL[0]: float("nan")})])
def test_what_cannot_be_bound_is_refused(workers, weights):
    with pytest.raises(ValueError, match=r"workers|weight"):
        bind([ALL[0]], workers, weights)


@given(some_lanes)
def test_a_lane_set_survives_its_written_form(lanes):
    assert parse_lanes(format_lanes(lanes)) == tuple(lanes)


def test_a_binding_by_hand_is_kept_and_the_others_see_to_the_rest():
    specs = [execnet.XSpec("popen//webaccel=firefox:webgpu"), execnet.XSpec("popen")]
    bind_specs(specs, [Lane.parse("firefox:webgpu"), Lane.parse("chromium:cpu")])
    assert [spec.webaccel for spec in specs] == ["firefox:webgpu", "chromium:cpu"]


def test_when_every_lane_is_taken_by_hand_the_others_help():
    specs = [execnet.XSpec("popen//webaccel=chromium:cpu"), execnet.XSpec("popen")]
    bind_specs(specs, [Lane.parse("chromium:cpu")])
    assert specs[1].webaccel == "chromium:cpu"


def test_a_binding_by_hand_to_no_lane_says_which_spec_and_what_is_known():
    with pytest.raises(ConfigurationError, match=r"popen//webaccel=opera:webgpu.*unknown browser 'opera'.*chromium"):
        bind_specs([execnet.XSpec("popen//webaccel=opera:webgpu")], [])
