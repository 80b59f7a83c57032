"""The server's session without I/O: what a page may say, what comes of it, and when."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_webaccel.bridge.frames import chunks, unseal
from pytest_webaccel.bridge.protocol import (
    Answered,
    Damaged,
    Doubted,
    Limits,
    Observed,
    Send,
    ServerSession,
    Started,
    Transmit,
)
from pytest_webaccel.errors import ProtocolError
from pytest_webaccel.terms import Symptom
from tests.bridge.messages import announced, hello, result, take
from tests.bridge.strategies import json_values

SMALL = Limits(text_bytes=4000, tensor_bytes=1000, tensors=3, pending=4, remembered=8)


def greeted(limits=None, requests=0):
    session = ServerSession(limits)
    for _ in range(requests):
        session.request("echo", {}, deadline_at=100.0)
    session.opened(0.0)
    session.text(hello(), 0.0)
    return session


def damages(effects):
    return [(effect.damage.symptom, effect.ids) for effect in effects if isinstance(effect, Damaged)]


def answers(effects):
    return [effect.id for effect in effects if isinstance(effect, Answered)]


# -- anything at all ------------------------------------------------------------------------------

kinds = st.sampled_from(["hello", "beat", "started", "result", "event", "welcome", "request", "nonsense"])
messages = st.fixed_dictionaries(
    {"t": kinds},
    optional={
        "id": st.integers(-1, 5) | json_values,
        "ok": st.booleans() | json_values,
        "ms": st.floats() | json_values,
        "executions": st.integers() | json_values,
        "error": st.fixed_dictionaries({"kind": json_values, "message": json_values}) | json_values,
        "tensors": st.lists(
            st.fixed_dictionaries({
                "name": st.sampled_from(["x", "y"]),
                "dtype": st.sampled_from(["uint8", "float32", "string"]),
                "shape": st.lists(st.integers(0, 600), max_size=2),
                "bytes": st.integers(0, 1200),
                "text": st.lists(st.text(max_size=2), max_size=2),
            }),
            max_size=4,
        )
        | json_values,
        "n": st.integers() | json_values,
        "name": st.text(max_size=70) | json_values,
        "data": st.dictionaries(st.text(max_size=4), json_values, max_size=2) | json_values,
        "protocol": json_values,
        "instance": st.text(max_size=70) | json_values,
    },
)  # fmt: skip
texts = messages.map(json.dumps) | st.text(max_size=60) | json_values.map(json.dumps)
frames = st.tuples(st.integers(0, 5), st.integers(0, 3), st.binary(max_size=30)).map(
    lambda parts: b"WAX1" + parts[0].to_bytes(4, "little") + parts[1].to_bytes(4, "little") + bytes(52) + parts[2]
)


@given(st.lists(texts | frames | st.binary(max_size=80), max_size=8))
@example([result(1, ms=10**310)])
@example([result(1, ms=float("nan"))])
@example([result(1, executions="many")])
@example(['{"t":"result","id":1,"ok":false}'])
@example(["[" * 100_000])
@example(['{"t":' + "[" * 985 + "]" * 985 + "}"])
@example(['{"t":"started","id":"\\ud800"}'])
@example(["1" * 5000])
def test_whatever_a_page_says_is_taken_or_is_a_protocol_error_and_bounds_hold(said):
    session = greeted(SMALL, requests=2)
    settled = []
    for message in said:
        before = set(session.pending)
        try:
            effects = take(session, message, 1.0)
        except ProtocolError:
            assert set(session.pending) == before, "what broke the protocol must not count as an answer"
            continue
        settled += answers(effects)
        assert before - set(session.pending) == set(answers(effects))
    assert len(settled) == len(set(settled))
    assert set(settled) | set(session.pending) == {1, 2}


@pytest.mark.parametrize("depth", [*range(930, 1000, 3), 5000, 200_000])
def test_deep_nesting_is_a_protocol_error(depth):
    for key in ("t", "id", "protocol", "n"):
        deep = json.dumps({"t": "started"})[:-1] + f',"{key}":' + "[" * depth + "]" * depth + "}"
        session = ServerSession()
        session.opened(0.0)
        with pytest.raises(ProtocolError):
            session.text(deep, 0.0)
        if key != "protocol":
            with pytest.raises(ProtocolError):
                greeted().text(deep, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 5000, "over the limit of 4000"),
        ("[]", "JSON object"),
        ("{", "not JSON"),
        (result(9), "never sent"),
        (result(0), "never sent"),
        (result(True), "never sent"),
        (json.dumps({"t": "event", "n": 1, "name": "x" * 65, "data": {}}), "event"),
        (json.dumps({"t": "event", "n": "1", "name": "x", "data": {}}), "event"),
        (hello(), "unknown message type"),
    ],
)  # fmt: skip
def test_each_bound_is_held_and_named(text, words):
    session = greeted(SMALL, requests=1)
    with pytest.raises(ProtocolError, match=words):
        session.text(text, 1.0)
    assert set(session.pending) == {1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (result(1, tensors=[{}] * 4), "at most 3 tensors"),
        (result(1, tensors=[announced(2)] * 2), "twice"),
        (result(1, tensors=[announced(600, name) for name in "xy"]), "more than 1000 bytes"),
        (result(1, tensors=[announced(1001)]), "over the limit"),
        (result(1, ms=-1), "milliseconds"),
        (result(1, ok=False), "carries its error"),
        (result(1, tensors=[announced(2, dtype="int4", bytes=1)]), "is none of"),
    ],
)  # fmt: skip
def test_a_result_that_cannot_cross_fails_its_request_once_and_the_connection_stays(text, words):
    session = greeted(SMALL, requests=2)
    ack, answered = session.text(text, 1.0)
    assert isinstance(ack, Send)
    assert isinstance(answered, Answered)
    assert answered.id == 1
    assert answered.error is not None
    assert answered.error[0] == "unsupported"
    assert words in answered.error[1]
    assert set(session.pending) == {2}
    assert session.binary(next(chunks(1, 0, memoryview(b"late"))), 1.0) == []


def test_results_under_way_share_one_bound():
    session = greeted(SMALL, requests=2)
    session.text(result(1, tensors=[announced(600)]), 1.0)
    _, answered = session.text(result(2, tensors=[announced(600)]), 1.0)
    assert isinstance(answered, Answered)
    assert answered.error is not None
    assert "more than 1000 bytes" in answered.error[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"t":"beat"}', "first message is hello"),
        (hello("short"), "8 to 64"),
        (hello("x" * 65), "8 to 64"),
        (hello(7), "8 to 64"),
        (hello(protocol=1), "protocol 1"),
    ],
)
def test_a_page_that_does_not_greet_as_it_must_is_refused(text, words):
    session = ServerSession()
    session.opened(0.0)
    with pytest.raises(ProtocolError, match=words):
        session.text(text, 0.0)
    assert not session.greeted
    assert session.instance is None


def test_too_many_pending_requests_are_refused():
    session = greeted(SMALL, requests=4)
    with pytest.raises(ProtocolError, match="the limit is 4"):
        session.request("echo", {}, deadline_at=1.0)


def test_answered_ids_are_remembered_within_a_bound():
    session = greeted(SMALL)
    for _ in range(50):
        request, _ = session.request("echo", {}, deadline_at=1.0)
        session.text(result(request.id), 1.0)
    assert session.pending == {}
    assert session.text(result(50), 1.0) == [Send('{"t": "ack", "ids": [50]}')]
    assert session.duplicates == 1


# -- one rule at a time ---------------------------------------------------------------------------


def test_a_request_made_before_a_page_joins_leaves_with_the_welcome():
    session = ServerSession()
    request, effects = session.request("echo", {}, deadline_at=9.0)
    assert effects == []
    session.opened(0.0)
    assert session.text(hello(), 0.0) == [Send('{"t": "welcome", "resumed": false, "pending": [1]}'), Transmit(request)]


def test_a_page_that_comes_back_gets_again_what_it_owes():
    session = greeted(requests=2)
    session.text(result(1), 1.0)
    assert damages(session.closed(2.0, "gone")) == [(Symptom.SOCKET_CLOSED, (2,))]
    session.opened(3.0)
    effects = session.text(hello(), 3.0)
    assert effects == [Send('{"t": "welcome", "resumed": true, "pending": [2]}'), Transmit(session.pending[2])]
    assert session.resumes == 1


def test_another_page_damages_what_the_old_one_had_and_forgets_it():
    session = greeted(requests=1)
    session.closed(1.0, "gone")
    queued, _ = session.request("echo", {}, deadline_at=9.0)
    session.opened(2.0)
    effects = session.text(hello("instance-2"), 2.0)
    assert damages(effects) == [(Symptom.PAGE_REPLACED, (1,))]
    assert [effect.request.id for effect in effects if isinstance(effect, Transmit)] == [queued.id]
    assert session.text(result(1), 2.0) == [Send('{"t": "ack", "ids": [1]}')]


def test_a_released_request_is_sent_again_unheld():
    session = ServerSession()
    request, _ = session.request("run", {}, deadline_at=9.0, hold=True)
    session.opened(0.0)
    session.text(hello(), 0.0)
    assert session.text('{"t":"started","id":1}', 0.0) == [Started(1)]
    assert session.text('{"t":"started","id":1}', 0.0) == []
    assert session.release(1) == [Send('{"t": "release", "id": 1}')]
    assert session.release(1) == []
    assert json.loads(unseal(str(next(request.frames("file")))))["hold"] is False


def test_an_event_is_observed_once_and_acknowledged_each_time():
    session = greeted(requests=1)
    event = json.dumps({"t": "event", "n": 1, "name": "device_lost", "data": {"reason": "r", "message": "m"}})
    first = session.text(event, 1.0)
    assert Observed("device_lost", {"reason": "r", "message": "m"}) in first
    assert damages(first) == [(Symptom.DEVICE_LOST, (1,))]
    assert session.text(event, 1.0) == [Send('{"t": "ack", "events": 1}')]


def test_silence_is_damage_and_longer_while_something_runs():
    session = greeted(Limits(heartbeat_s=2.0, busy_heartbeat_s=5.0))
    session.tick(1.9)
    assert session.next_tick() == 2.0
    assert session.tick(1.9) == []
    assert damages(session.tick(2.0)) == [(Symptom.HEARTBEAT_MISSED, ())]
    session.request("echo", {}, deadline_at=100.0)
    session.text('{"t":"beat"}', 4.0)
    assert damages(session.tick(8.9)) == []
    assert damages(session.tick(9.0)) == [(Symptom.HEARTBEAT_MISSED, (1,))]


def test_a_page_is_doubted_once_before_its_silence_is_damage():
    session = greeted(Limits(heartbeat_s=2.0, busy_heartbeat_s=5.0, doubt_s=0.5))
    assert session.next_tick() == 1.5
    assert session.tick(1.4) == []
    assert session.tick(1.5) == [Doubted()]
    assert session.next_tick() == 2.0
    assert session.tick(1.9) == []
    session.text('{"t":"beat"}', 1.9)  # it runs after all
    assert session.tick(2.0) == []
    assert session.tick(3.5) == [Doubted()]
    assert damages(session.tick(3.9)) == [(Symptom.HEARTBEAT_MISSED, ())]


def test_the_time_for_doubt_is_a_quarter_of_a_short_silence():
    assert Limits(doubt_s=0.5).doubtful(1.0) == 0.75
    assert Limits(doubt_s=0.5).doubtful(10.0) == 9.5


def test_a_deadline_that_passed_is_told_and_the_request_stays():
    session = greeted()
    request, _ = session.request("echo", {}, deadline_at=3.0)
    assert session.next_tick() == 3.0
    assert damages(session.tick(3.0)) == [(Symptom.DEADLINE_PASSED, (1,))]
    assert request.id in session.pending


def test_an_abandoned_request_is_cancelled_and_its_late_result_dropped():
    session = greeted(requests=1)
    assert session.abandon(1) == [Send('{"t": "cancel", "id": 1}')]
    assert session.abandon(1) == []
    assert answers(session.text(result(1), 1.0)) == []
