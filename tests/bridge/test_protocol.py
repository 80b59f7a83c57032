from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_webaccel.bridge.frames import chunks, seal, unseal
from pytest_webaccel.bridge.messages import Progress
from pytest_webaccel.bridge.protocol import (
    PROTOCOL_VERSION,
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
from pytest_webaccel.testing import Answer, PageRequest, PageSession
from tests.bridge.strategies import arrays, json_values, same

SMALL = Limits(text_bytes=4000, tensor_bytes=1000, tensors=3, pending=4, remembered=8)


def hello(instance="instance-1", **more):
    return json.dumps({"t": "hello", "protocol": PROTOCOL_VERSION, "instance": instance, **more})


def result(request_id, **more):
    return json.dumps({"t": "result", "id": request_id, "ok": True, "ms": 1.0, "executions": 1, "tensors": [], **more})


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
            effects = session.text(message, 1.0) if isinstance(message, str) else session.binary(message, 1.0)
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
        (result(1, tensors=[{"name": "x", "dtype": "uint8", "shape": [2], "bytes": 2}] * 2), "twice"),
        (
            result(1, tensors=[{"name": n, "dtype": "uint8", "shape": [600], "bytes": 600} for n in "xy"]),
            "more than 1000 bytes",
        ),
        (result(1, tensors=[{"name": "x", "dtype": "uint8", "shape": [1001], "bytes": 1001}]), "over the limit"),
        (result(1, ms=-1), "milliseconds"),
        (result(1, ok=False), "carries its error"),
        (result(1, tensors=[{"name": "x", "dtype": "int4", "shape": [2], "bytes": 1}]), "is none of"),
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
    session.text(result(1, tensors=[{"name": "x", "dtype": "uint8", "shape": [600], "bytes": 600}]), 1.0)
    _, answered = session.text(result(2, tensors=[{"name": "x", "dtype": "uint8", "shape": [600], "bytes": 600}]), 1.0)
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
        (json.dumps({"t": "hello", "protocol": 1, "instance": "instance-1"}), "protocol 1"),
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


# -- both ends over a connection that breaks ------------------------------------------------------


def is_bare(frame):
    """Whether this is a text that the channel seals when it sends it."""
    return isinstance(frame, str) and frame.startswith("{")


def flipped(frame, place, bit):
    """The frame with one bit of one byte changed; a text stays one of ASCII, or it would not even be a text."""
    changed = bytearray(frame.encode() if isinstance(frame, str) else frame)
    changed[place % len(changed)] ^= 1 << bit
    return changed.decode("ascii") if isinstance(frame, str) else bytes(changed)


@given(
    arrays().map(lambda array: array if array.dtype.kind == "O" else array.astype(array.dtype.name)),
    st.integers(0, 1 << 20),
    st.integers(0, 7),
)
def test_a_bit_that_flips_anywhere_in_an_answer_is_noticed_and_the_answer_comes_again_whole(array, place, bit):
    sent: deque[Any] = deque()
    page = PageSession("page-00001", sent.append, lambda request: None, chunk_bytes=48)
    server = ServerSession()
    request, _ = server.request("echo", {}, deadline_at=9.0)
    server.opened(0.0)
    page.opened()
    server.text(sent.popleft(), 0.0)
    page.text('{"t":"welcome","pending":[1]}')
    page.text(str(next(request.frames("file"))))
    sent.clear()
    page.answer(1, Answer(tensors={"x": array}))
    frames = list(sent)
    spoilt = place % len(frames)
    frames[spoilt] = flipped(frames[spoilt], place, min(bit, 6) if spoilt == 0 else bit)
    try:
        for frame in frames:
            effects = (server.text if isinstance(frame, str) else server.binary)(frame, 1.0)
            assert answers(effects) == []
        noticed = request.state is Progress.DAMAGED
    except ProtocolError:
        noticed = True
    assert noticed
    server.closed(2.0, "cut")
    page.closed()
    sent.clear()
    page.opened()
    page.text('{"t":"welcome","pending":[1]}')
    server.opened(3.0)
    settled = [
        effect for frame in sent for effect in (server.text if isinstance(frame, str) else server.binary)(frame, 3.0)
    ]
    [answered] = [effect for effect in settled if isinstance(effect, Answered)]
    assert answered.reply is not None
    assert same(array, answered.reply.tensors["x"])
    assert answered.reply.executions == 1


class LossyConversation(RuleBasedStateMachine):
    """Server and page over a connection that is cut after any frame, in either direction, and damages frames.

    Frames keep their order, as TCP does. A cut loses what is on its way. The page may be replaced. Damage may befall
    any byte of any frame; whoever finds that the protocol is broken closes the connection.
    """

    def __init__(self):
        super().__init__()
        self.server = ServerSession()
        self.now = 0.0
        self.lives = 0
        self.up = False
        self.to_server: deque[Any] = deque()
        self.to_page: deque[Any] = deque()
        self.answered: dict[int, int] = {}
        self.damaged: set[int] = set()
        self.abandoned: set[int] = set()
        self.asked: dict[int, int] = {}
        self.observed: list[int] = []
        self.reported = 0

    @initialize()
    def new_page(self):
        if self.up:
            self.cut()
        self.lives += 1
        self.running: list[PageRequest] = []
        self.page = PageSession(f"page-{self.lives:05d}", self.to_server.append, self.running.append, chunk_bytes=64)
        self.observed, self.reported = [], 0

    @rule(size=st.integers(0, 40), hold=st.booleans())
    @precondition(lambda self: len(self.server.pending) < 12)
    def ask(self, size, hold):
        tensors = {"x": np.arange(size, dtype=np.float32), "s": np.array(["a"] * (size % 3), object)}
        request, effects = self.server.request("echo", {"size": size}, deadline_at=1e9, tensors=tensors, hold=hold)
        self.asked[request.id] = size
        self.carry_out(effects)

    @rule(data=st.data())
    @precondition(lambda self: self.server.pending)
    def release(self, data):
        self.carry_out(self.server.release(data.draw(st.sampled_from(sorted(self.server.pending)))))

    @rule(data=st.data())
    @precondition(lambda self: self.server.pending)
    def abandon(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.server.pending)))
        self.abandoned.add(request_id)
        self.carry_out(self.server.abandon(request_id))

    @rule()
    def connect(self):
        """Also while connected: the page's old connection is dropped, as by a second connect."""
        if self.up:
            self.cut()
        self.up = True
        self.carry_out(self.server.opened(self.now))
        self.page.opened()

    @rule()
    @precondition(lambda self: self.up)
    def cut(self):
        self.up = False
        self.to_server.clear()
        self.to_page.clear()
        self.page.closed()
        self.carry_out(self.server.closed(self.now, "cut"))

    @rule(count=st.integers(1, 6))
    @precondition(lambda self: self.to_server)
    def deliver_to_server(self, count):
        for _ in range(min(count, len(self.to_server))):
            frame = self.to_server.popleft()
            take = self.server.text if isinstance(frame, str) else self.server.binary
            try:
                effects = take(frame, self.now)
            except ProtocolError:
                return self.cut()
            self.carry_out(effects)
        return None

    @rule(count=st.integers(1, 6))
    @precondition(lambda self: self.to_page)
    def deliver_to_page(self, count):
        for _ in range(min(count, len(self.to_page))):
            frame = self.to_page.popleft()
            try:
                (self.page.text if isinstance(frame, str) else self.page.binary)(frame)
            except (ProtocolError, ValueError):
                return self.cut()
        return None

    @rule(data=st.data(), upward=st.booleans(), place=st.integers(0, 1 << 20), bit=st.integers(0, 6))
    @precondition(lambda self: self.to_server or self.to_page)
    def damage(self, data, upward, place, bit):
        frames = (self.to_server if upward else self.to_page) or self.to_server or self.to_page
        index = data.draw(st.integers(0, len(frames) - 1))
        frames[index] = flipped(seal(frames[index]) if is_bare(frames[index]) else frames[index], place, bit)

    @rule(data=st.data())
    @precondition(lambda self: self.server.pending)
    def ask_again(self, data):
        self.carry_out(self.server.again(data.draw(st.sampled_from(sorted(self.server.pending)))))

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def finish(self, data):
        request = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if request.args["size"] % 7 == 6:
            self.page.answer(request.id, Answer(error=("operator", f"size {request.args['size']}")))
        else:
            self.page.answer(request.id, Answer(request.args["size"], request.tensors))

    @rule()
    def report(self):
        self.reported += 1
        self.page.event("note", {"number": self.reported})

    @rule()
    def beat(self):
        self.page.beat()

    def carry_out(self, effects):
        for effect in effects:
            match effect:
                case Send(text) if self.up:
                    self.to_page.append(text)
                case Transmit(request) if self.up:
                    self.to_page.extend(request.frames("file"))
                case Answered(request_id, reply, error):
                    self.answered[request_id] = self.answered.get(request_id, 0) + 1
                    self.check(request_id, reply, error)
                case Damaged(damage, ids) if damage.symptom is Symptom.PAGE_REPLACED:
                    self.damaged.update(ids)
                case Observed(_, data):
                    self.observed.append(data["number"])

    def spoilt(self):
        return [known for known in self.server.pending if self.server.awaits_again(known)]

    def check(self, request_id, reply, error):
        size = self.asked[request_id]
        if size % 7 == 6:
            assert error == ("operator", f"size {size}")
            return
        assert reply.value == size
        assert reply.executions == 1
        assert reply.tensors["x"].tolist() == list(range(size))
        assert reply.tensors["s"].tolist() == ["a"] * (size % 3)

    @invariant()
    def every_request_is_answered_at_most_once_and_none_is_forgotten(self):
        assert all(count == 1 for count in self.answered.values())
        settled = set(self.answered) | self.abandoned | self.damaged
        assert settled | set(self.server.pending) == set(self.asked)
        assert not set(self.answered) & self.abandoned
        assert not set(self.server.pending) & settled

    @invariant()
    def the_page_begins_each_request_at_most_once(self):
        assert all(count == 1 for count in self.page.executions.values())

    @invariant()
    def events_arrive_in_order_and_once(self):
        assert self.observed == list(range(1, len(self.observed) + 1))

    def teardown(self):
        """With the link up for good, everything still owed is answered, and nothing is left over."""
        if not self.lives:
            return
        self.connect()
        for request_id in list(self.server.pending):
            self.carry_out(self.server.release(request_id))
        while self.to_server or self.to_page or self.running or self.spoilt():
            if not self.up:
                self.connect()
            for request_id in self.spoilt():
                self.carry_out(self.server.again(request_id))
            self.deliver_to_page(len(self.to_page))
            while self.running:
                request = self.running.pop()
                bad = request.args["size"] % 7 == 6
                answer = Answer(request.args["size"], request.tensors)
                words = ("operator", f"size {request.args['size']}")
                self.page.answer(request.id, Answer(error=words) if bad else answer)
            self.deliver_to_server(len(self.to_server))
        self.every_request_is_answered_at_most_once_and_none_is_forgotten()
        assert self.server.pending == {}
        assert self.observed == list(range(1, self.reported + 1))
        left = self.page.statistics()
        assert left.pop("events") == 0
        assert set(left) <= {"cancelled"}


TestLossyConversation = LossyConversation.TestCase
TestLossyConversation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
