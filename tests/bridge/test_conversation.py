"""The sessions of server and page, without I/O, over a connection that breaks and damages what it carries."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_webaccel.bridge.frames import seal
from pytest_webaccel.bridge.messages import Progress
from pytest_webaccel.bridge.protocol import Answered, Damaged, Observed, Send, ServerSession, Transmit
from pytest_webaccel.errors import ProtocolError
from pytest_webaccel.terms import Symptom
from pytest_webaccel.testing import Answer, PageRequest, PageSession
from tests.bridge.messages import take
from tests.bridge.strategies import native_arrays, same


def is_bare(frame):
    """Whether this is a text that the channel seals when it sends it."""
    return isinstance(frame, str) and frame.startswith("{")


def flipped(frame, place, bit):
    """The frame with one bit of one byte changed; a text stays one of ASCII, or it would not even be a text."""
    changed = bytearray(frame.encode() if isinstance(frame, str) else frame)
    changed[place % len(changed)] ^= 1 << bit
    return changed.decode("ascii") if isinstance(frame, str) else bytes(changed)


@given(native_arrays(), st.integers(0, 1 << 20), st.integers(0, 7))
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
            assert not [effect for effect in take(server, frame, 1.0) if isinstance(effect, Answered)]
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
    settled = [effect for frame in sent for effect in take(server, frame, 3.0)]
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
        self.carry_out(self.server.release(self.one(data)))

    @rule(data=st.data())
    @precondition(lambda self: self.server.pending)
    def abandon(self, data):
        request_id = self.one(data)
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
            try:
                effects = take(self.server, frame, self.now)
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
                take(self.page, frame)
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
        self.carry_out(self.server.again(self.one(data)))

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def finish(self, data):
        self.answer(data.draw(st.integers(0, len(self.running) - 1)))

    @rule()
    def report(self):
        self.reported += 1
        self.page.event("note", {"number": self.reported})

    @rule()
    def beat(self):
        self.page.beat()

    def one(self, data):
        """One of the requests that are pending."""
        return data.draw(st.sampled_from(sorted(self.server.pending)))

    def answer(self, index=-1):
        """The page ends one of the requests that run in it."""
        request = self.running.pop(index)
        size = request.args["size"]
        bad = Answer(error=("operator", f"size {size}"))
        self.page.answer(request.id, bad if size % 7 == 6 else Answer(size, request.tensors))

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
                self.answer()
            self.deliver_to_server(len(self.to_server))
        self.every_request_is_answered_at_most_once_and_none_is_forgotten()
        assert self.server.pending == {}
        assert self.observed == list(range(1, self.reported + 1))
        left = self.page.statistics()
        assert left.pop("events") == 0
        assert set(left) <= {"cancelled"}


TestLossyConversation = LossyConversation.TestCase
TestLossyConversation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
