"""Toxics without I/O: a made-up clock, seeded chance, one direction of one connection."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.bridge.frames import HEADER_BYTES, chunks
from pytest_webaccel.bridge.payload import Body, Frames, Nothing
from pytest_webaccel.bridge.pipe import End, Flow, Gate, Pipe
from pytest_webaccel.bridge.stages import Bandwidth, Latency, LimitData, ResetPeer, Slicer, Stream, Timeout
from pytest_webaccel.errors import BridgeError


class Line:
    """A pipe, its clock, and what came out of it and when."""

    def __init__(self, *toxics, scanner=None, seed=0):
        self.now = 0.0
        self.flow = Flow(random.Random(seed))
        self.out: list[tuple[float, bytes]] = []
        self.end: End | None = None
        self.pipe = Pipe(self.flow, scanner or Nothing(), 0.0)
        self.lay(*toxics)

    def lay(self, *toxics):
        for toxic in toxics:
            self.flow.toxics[toxic.name] = (toxic, self.now)
        self.pipe.rearrange(self.now)
        self.take()

    def clear(self):
        self.flow.toxics.clear()
        self.flow.gate = None
        self.pipe.stalled = False
        self.pipe.rearrange(self.now)
        self.take()

    def feed(self, data):
        self.pipe.feed(data)
        self.take()

    def take(self):
        ready, end = self.pipe.due(self.now)
        self.out += [(self.now, data) for data in ready]
        self.end = self.end or end

    def run(self, until=1e9):
        """Let time pass until nothing is due any more, or ``until``."""
        while (moment := self.pipe.next_due()) is not None and moment <= until:
            assert moment >= self.now, "nothing is due in the past"
            self.now = moment
            self.take()
        if until < 1e9:
            self.now = until

    @property
    def bytes(self):
        return b"".join(data for _, data in self.out)


def websocket(message, *, masked=False, opcode=2, final=True):
    """One frame as it is on the wire; the mask is of zeros, so that payload stays readable."""
    length = len(message)
    short = length if length < 126 else 126 if length < 1 << 16 else 127
    extended = b"" if short < 126 else length.to_bytes(2 if short == 126 else 8, "big")
    head = bytes([(0x80 if final else 0) | opcode, (0x80 if masked else 0) | short])
    return head + extended + (bytes(4) if masked else b"") + message


# -- each toxic ---------------------------------------------------------------------------------------


def test_latency_delays_each_piece_within_its_jitter_and_keeps_the_order():
    line = Line(Latency(100, jitter=40), seed=3)
    for number in range(50):
        line.run(until=number * 0.01)
        line.feed(bytes([number]))
    line.run()
    assert line.bytes == bytes(range(50))
    delays = [at - data[0] * 0.01 for at, data in line.out]
    assert min(delays) >= 0.06
    assert max(delays) <= 0.14 + 1e-9
    assert max(delays) - min(delays) > 0.02, "jitter is drawn"


def test_the_same_seed_draws_the_same_jitter():
    def times(seed):
        line = Line(Latency(10, jitter=9), seed=seed)
        for _ in range(9):
            line.feed(b"x")
        line.run()
        return [at for at, _ in line.out]

    assert times(1) == times(1)
    assert times(1) != times(2)


@pytest.mark.parametrize("rate", [1, 50, 4000])
def test_bandwidth_lets_its_rate_pass_and_no_more(rate):
    line = Line(Bandwidth(rate))
    data = random.Random(0).randbytes(rate * 1000 * 2)  # two seconds' worth
    line.feed(data)
    line.run()
    assert line.bytes == data
    assert line.now == pytest.approx(2.0)
    passed = 0
    for at, part in line.out:
        passed += len(part)
        assert passed <= rate * 1000 * at + 1e-6


def test_a_bandwidth_of_nothing_holds_everything_until_it_is_removed():
    line = Line(Bandwidth(0))
    line.feed(b"abc")
    line.run()
    assert line.bytes == b""
    line.clear()
    assert line.bytes == b"abc"


def test_a_slicer_cuts_pieces_of_its_size_apart_by_its_delay():
    line = Line(Slicer(10, size_variation=3, delay=500))
    line.feed(bytes(range(200)))
    line.run()
    assert line.bytes == bytes(range(200))
    sizes = [len(data) for _, data in line.out]
    assert all(7 <= size <= 13 for size in sizes[:-1])
    gaps = [after - before for (before, _), (after, _) in zip(line.out, line.out[1:], strict=False)]
    assert gaps == pytest.approx([0.0005] * (len(sizes) - 1))


@pytest.mark.parametrize(
    ("toxic", "end", "at"),
    [(Timeout(250), End.CLOSE, 0.25), (ResetPeer(), End.RESET, 0.0), (ResetPeer(80), End.RESET, 0.08)],
)
def test_timeout_and_reset_peer_stop_data_and_end_the_connection_in_time(toxic, end, at):
    line = Line(toxic)
    line.feed(b"abc")
    line.run()
    assert (line.bytes, line.end, line.now) == (b"", end, at)


def test_a_timeout_of_nothing_never_ends_and_loses_nothing():
    line = Line(Timeout(0))
    line.feed(b"abc")
    line.run()
    assert (line.bytes, line.end) == (b"", None)
    line.clear()
    assert line.bytes == b"abc"


def test_limit_data_closes_after_its_bytes_whatever_pieces_they_come_in():
    line = Line(Latency(5), LimitData(7))
    for part in (b"abc", b"def", b"ghi"):
        line.feed(part)
    line.run()
    assert (line.bytes, line.end) == (b"abcdefg", End.CLOSE)
    line.feed(b"more")
    line.run()
    assert line.bytes == b"abcdefg"


def test_a_toxic_that_is_laid_or_removed_meets_what_waits():
    line = Line(Latency(1000))
    line.feed(b"slow")
    line.run(until=0.4)
    line.lay(Bandwidth(1))
    line.run(until=0.999)
    assert line.bytes == b""
    line.run()
    assert line.bytes == b"slow"
    line.feed(b"waits")
    line.clear()
    assert line.bytes == b"slowwaits"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Latency(-1),
        lambda: Latency(float("nan")),
        lambda: Bandwidth(float("inf")),
        lambda: Slicer(0),
        lambda: Slicer(5, size_variation=5),
        lambda: LimitData(-1),
    ],
)
def test_a_toxic_that_means_nothing_is_refused(wrong):
    with pytest.raises(BridgeError, match="toxic"):
        wrong()


def test_a_toxic_is_named_after_its_kind_and_stream():
    assert Latency(1).name == "latency_downstream"
    assert Latency(1, stream=Stream.UPSTREAM).name == "latency_upstream"
    assert LimitData(1, name="mine").name == "mine"


# -- payload ------------------------------------------------------------------------------------------


@st.composite
def traffic(draw):
    """Frames of every kind and size, fragmented or not; also where in them the payload is."""
    wire, marks, masked = b"", b"", draw(st.booleans())

    def add(frame, payload_from):
        nonlocal wire, marks
        wire += frame
        marks += bytes(payload_from) + b"\1" * (len(frame) - payload_from)

    for _ in range(draw(st.integers(1, 5))):
        binary = draw(st.booleans())
        parts = draw(st.lists(st.integers(0, 300), min_size=1, max_size=4))
        position = 0
        for index, size in enumerate(parts):
            opcode = (2 if binary else 1) if index == 0 else 0
            frame = websocket(b"p" * size, masked=masked, opcode=opcode, final=index == len(parts) - 1)
            header = len(frame) - size
            before = min(size, max(0, HEADER_BYTES - position)) if binary else size
            add(frame, header + before)
            position += size
            if draw(st.booleans()):
                control = websocket(b"c" * draw(st.integers(0, 125)), masked=masked, opcode=9)
                add(control, len(control))
    return wire, marks


def pieces_of(data, sizes):
    at = 0
    for size in [*sizes, len(data)]:
        if at < len(data):
            yield data[at : at + size]
            at += size


@given(traffic(), st.lists(st.integers(1, 400), max_size=20), st.booleans())
def test_payload_is_found_wherever_the_stream_is_cut(sent, sizes, head):
    wire, marks = sent
    if head:
        before = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
        wire, marks = before + wire, bytes(len(before)) + marks
    scanner, found = Frames(head=head), b""
    for piece in pieces_of(wire, sizes):
        count, spans = scanner.scan(piece)
        assert count == len(piece)
        places = bytearray(count)
        for start, end in spans:
            places[start:end] = b"\1" * (end - start)
        found += bytes(places)
    assert found == marks


@given(st.binary(max_size=300), st.lists(st.integers(1, 60), max_size=20))
def test_the_body_of_an_answer_is_payload(body, sizes):
    wire = b"HTTP/1.1 200 OK\r\nX: \r\r\r\nContent-Length: 3\r\n\r\n" + body
    scanner, found = Body(), b""
    for piece in pieces_of(wire, sizes):
        _, spans = scanner.scan(piece)
        found += b"".join(piece[start:end] for start, end in spans)
    assert found == body


@given(traffic(), st.lists(st.integers(1, 400), max_size=20), st.integers(0, 800))
def test_a_gate_lets_exactly_its_payload_pass_and_then_holds(sent, sizes, allowed):
    wire, marks = sent
    line = Line(scanner=Frames(head=False))
    reached: list[bool] = []
    line.flow.gate = Gate(allowed, lambda: reached.append(True), closed=allowed == 0)
    for piece in pieces_of(wire, sizes):
        line.feed(piece)
    line.run()
    passed = sum(marks[: len(line.bytes)])
    assert wire.startswith(line.bytes)
    assert passed == min(allowed, sum(marks))
    assert bool(reached) == (0 < allowed <= sum(marks))
    if not reached and allowed:
        assert line.bytes == wire, "nothing is held before the gate is reached"
    line.clear()
    assert line.bytes == wire, "and what was held passes in order"


@given(traffic(), st.lists(st.integers(1, 400), max_size=20), st.integers(0, 500), st.integers(1, 5), st.integers())
def test_corruption_flips_bits_of_payload_and_nothing_else(sent, sizes, after, flips, seed):
    wire, marks = sent
    line = Line(scanner=Frames(head=False), seed=seed)
    line.flow.corrupt(after, flips)
    for piece in pieces_of(wire, sizes):
        line.feed(piece)
    line.run()
    assert len(line.bytes) == len(wire)
    changed = [at for at, (was, is_) in enumerate(zip(wire, line.bytes, strict=True)) if was != is_]
    assert all(marks[at] for at in changed)
    assert all((wire[at] ^ line.bytes[at]).bit_count() == 1 for at in changed)
    assert all(sum(marks[:at]) >= after for at in changed)
    assert len(changed) == line.flow.corrupted
    if sum(marks) > after:
        assert 1 <= len(changed) <= flips


@given(traffic(), st.lists(st.integers(1, 400), max_size=20), st.integers(0, 500))
def test_truncation_cuts_in_the_midst_of_payload_and_resets(sent, sizes, after):
    wire, marks = sent
    line = Line(scanner=Frames(head=False))
    line.flow.cut = after
    for piece in pieces_of(wire, sizes):
        line.feed(piece)
    line.run()
    assert wire.startswith(line.bytes)
    if sum(marks) > after:
        assert line.end is End.RESET
        assert sum(marks[: len(line.bytes)]) == after
    else:
        assert (line.end, line.bytes) == (None, wire)


def test_corruption_of_a_chunk_spares_its_header():
    [frame] = chunks(1, 0, memoryview(bytes(100)))
    wire = websocket(frame, masked=True)
    for seed in range(50):
        line = Line(scanner=Frames(head=False), seed=seed)
        line.flow.corrupt(0, 1)
        line.feed(wire)
        [changed] = [at for at, (was, is_) in enumerate(zip(wire, line.bytes, strict=True)) if was != is_]
        assert changed >= len(wire) - 100


# -- all together -------------------------------------------------------------------------------------

toxics = st.one_of(
    st.builds(Latency, st.floats(0, 500), st.floats(0, 600)),
    st.builds(Bandwidth, st.floats(0.5, 100)),
    st.builds(Slicer, st.integers(4, 50), st.integers(0, 3), st.floats(0, 5000)),
    st.builds(Timeout, st.just(0)),
)
steps = st.one_of(
    st.tuples(st.just("feed"), st.binary(min_size=1, max_size=80)),
    st.tuples(st.just("pass"), st.floats(0, 1)),
    st.tuples(st.just("lay"), toxics),
    st.tuples(st.just("clear"), st.none()),
    st.tuples(st.just("stall"), st.none()),
    st.tuples(st.just("gate"), st.integers(0, 60)),
)


@given(st.lists(steps, max_size=25), st.integers())
def test_whatever_is_laid_no_byte_is_lost_or_overtaken_and_all_passes_once_it_is_cleared(plan: Any, seed):
    line = Line(scanner=Body(), seed=seed)
    sent = b"\r\n\r\n"
    line.feed(sent)
    for what, given_ in plan:
        match what:
            case "feed":
                sent += given_
                line.feed(given_)
            case "pass":
                line.run(until=line.now + given_)
            case "lay":
                line.lay(given_)
            case "clear":
                line.clear()
            case "stall":
                line.pipe.stalled = True
            case "gate":
                line.flow.gate = Gate(given_, lambda: None, closed=given_ == 0)
        assert sent.startswith(line.bytes)
        assert line.pipe.waiting == len(sent) - len(line.bytes)
    line.clear()
    assert line.bytes == sent
    assert line.pipe.next_due() is None
    assert line.pipe.idle
    assert not math.isinf(line.now)
