from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_webaccel.recovery.engine import (
    MAX_ATTEMPTS,
    SEVERITY,
    Decision,
    Do,
    GaveUp,
    MachineState,
    Recovered,
    RecoveryMachine,
    Survey,
)
from pytest_webaccel.recovery.rungs import STAGES, Rung, Situation, Step
from pytest_webaccel.recovery.strategies import STRATEGIES, RecoveryStrategy
from pytest_webaccel.terms import Strategy, Symptom

from .virtual import damage

COORDINATED = STRATEGIES[Strategy.COORDINATED]


def machine(
    symptom: Symptom = Symptom.SOCKET_CLOSED,
    *,
    strategy: RecoveryStrategy = COORDINATED,
    budget_s: float = 60.0,
    fault_at: float = 0.0,
    at: float = 0.0,
    spare_ready: bool = False,
    models: int = 1,
) -> RecoveryMachine:
    return RecoveryMachine(
        strategy,
        budget_s=budget_s,
        fault_at=fault_at,
        damage=damage(symptom, at),
        survey=lambda: Survey(int(spare_ready), models),
    )


def step(decision: Decision) -> Step:
    assert isinstance(decision, Do), decision
    return decision.step


def test_every_symptom_has_a_severity():
    assert set(SEVERITY) == set(Symptom)


def test_the_cheapest_rung_that_works_recovers():
    m = machine()
    assert step(m.begin(0)) is Step.RECONNECT
    assert step(m.step_done(1)) is Step.REPLAY
    assert m.step_done(2) == Recovered()
    assert (m.attempts, m.steps) == (1, (Step.RECONNECT, Step.REPLAY))


def test_a_failed_rung_leads_to_the_next_one_up():
    m = machine()
    m.begin(0)
    assert step(m.step_failed("no answer", 1)) is Step.NEW_PAGE
    assert step(m.step_failed("no answer", 2)) is Step.RESTART_BROWSER
    last = m.step_failed("no answer", 3)
    assert isinstance(last, GaveUp)
    assert "every rung failed" in last.reason
    assert last.reason.count("no answer") == 3
    assert m.rungs == ("reconnect", "new_page", "restart_browser")


def test_strategy_none_gives_up_at_once():
    m = machine(strategy=STRATEGIES[Strategy.NONE])
    assert isinstance(m.begin(0), GaveUp)
    assert m.attempts == 0


def test_worse_damage_during_a_repair_is_planned_for():
    m = machine(Symptom.SOCKET_CLOSED)
    m.begin(0)
    assert step(m.damaged(damage(Symptom.BROWSER_EXITED), 1)) is Step.RESTART_BROWSER


def test_a_late_lesser_symptom_does_not_lead_to_a_page_without_models():
    m = machine(Symptom.DEVICE_LOST)
    assert step(m.begin(0)) is Step.NEW_DEVICE
    assert step(m.step_done(1)) is Step.LOAD_MODELS
    assert step(m.damaged(damage(Symptom.SOCKET_CLOSED), 2)) is Step.NEW_PAGE


def test_lesser_damage_to_a_mended_lane_is_mended_cheaply():
    m = machine(Symptom.BROWSER_EXITED)
    m.begin(0)
    m.step_done(1)
    assert step(m.step_done(2)) is Step.REPLAY
    assert step(m.damaged(damage(Symptom.SOCKET_CLOSED), 3)) is Step.RECONNECT


def test_the_same_damage_again_moves_one_rung_up():
    m = machine(Symptom.DEVICE_LOST)
    m.begin(0)
    m.step_done(1)
    m.step_done(2)
    assert step(m.damaged(damage(Symptom.DEVICE_LOST), 3)) is Step.NEW_PAGE


def test_a_rung_that_mended_and_met_new_damage_gets_one_more_try_where_none_is_left():
    m = machine(Symptom.BROWSER_EXITED, strategy=STRATEGIES[Strategy.SIMPLE])
    for _ in range(2):
        decision = m.begin(0) if m.state is MachineState.NEW else m.damaged(damage(Symptom.BROWSER_EXITED), 2)
        assert step(decision) is Step.RESTART_BROWSER
        assert step(m.step_done(1)) is Step.LOAD_MODELS
    assert isinstance(m.damaged(damage(Symptom.BROWSER_EXITED), 3), GaveUp)
    assert m.rungs == ("restart_browser", "restart_browser")


def test_a_spare_that_failed_its_replay_is_still_repaid():
    m = machine(Symptom.BROWSER_EXITED, spare_ready=True)
    assert step(m.begin(0)) is Step.USE_SPARE
    assert step(m.step_done(1)) is Step.REPLAY
    assert step(m.step_failed("wrong answer", 2)) is Step.RESTART_BROWSER
    m.step_done(3)
    m.step_done(4)
    assert m.repair_owed
    assert step(m.step_done(5)) is Step.REPAIR_IN_BACKGROUND
    assert m.step_done(6) == Recovered()
    assert not m.repair_owed


@pytest.mark.parametrize("how", ["step_failed", "damaged"])
def test_nothing_after_the_replay_can_unanswer_the_request(how):
    m = machine(Symptom.BROWSER_EXITED, spare_ready=True)
    m.begin(0)
    m.step_done(1)
    assert step(m.step_done(2)) is Step.REPAIR_IN_BACKGROUND
    last = m.step_failed("no", 3) if how == "step_failed" else m.damaged(damage(Symptom.BROWSER_EXITED), 3)
    assert last == Recovered()


def test_an_answer_that_came_past_the_budget_counts():
    m = machine(budget_s=5.0)
    m.begin(0)
    m.step_done(1)
    assert m.step_done(99) == Recovered()


def test_a_spent_budget_gives_up_and_says_so():
    m = machine(budget_s=5.0)
    m.begin(0)
    last = m.step_failed("hung", 5.0)
    assert isinstance(last, GaveUp)
    assert "budget of 5 s is spent" in last.reason
    assert "hung" in last.reason
    assert m.attempts == 1


def test_a_rung_that_hangs_leaves_time_for_the_next():
    m = machine(budget_s=4.0)
    first = m.begin(0)
    assert isinstance(first, Do)
    assert first.deadline_s == pytest.approx(3.0)
    second = m.step_failed("hung", 3.0)
    assert isinstance(second, Do)
    assert second.step is Step.NEW_PAGE
    assert second.deadline_s == pytest.approx(0.75)
    last = m.step_failed("hung", 3.75)
    assert isinstance(last, Do)
    assert last.step is Step.RESTART_BROWSER
    assert last.deadline_s == pytest.approx(0.25)


def test_a_spare_is_put_in_once():
    m = machine(Symptom.PAGE_CRASHED, spare_ready=True)
    assert step(m.begin(0)) is Step.USE_SPARE
    assert step(m.damaged(damage(Symptom.BROWSER_EXITED), 1)) is Step.RESTART_BROWSER


def test_as_many_spares_are_put_in_as_there_were_at_the_start():
    m = RecoveryMachine(
        COORDINATED, budget_s=60, fault_at=0, damage=damage(Symptom.PAGE_CRASHED), survey=lambda: Survey(2, 1)
    )
    assert step(m.begin(0)) is Step.USE_SPARE
    m.step_done(1)
    assert step(m.damaged(damage(Symptom.PAGE_CRASHED), 2)) is Step.USE_SPARE
    m.step_done(3)
    assert step(m.damaged(damage(Symptom.PAGE_CRASHED), 4)) is Step.NEW_PAGE


def test_a_rung_out_of_time_between_steps_has_failed():
    m = machine(Symptom.SOCKET_CLOSED, budget_s=1000.0)
    first = m.begin(0)
    assert isinstance(first, Do)
    assert step(m.step_done(first.deadline_s)) is Step.NEW_PAGE


def test_time_is_split_by_what_it_was_spent_on():
    m = machine(Symptom.DEVICE_LOST, fault_at=10.0, at=10.25)
    m.begin(10.5)
    m.step_done(11.5)  # new device
    m.step_done(13.5)  # load
    m.damaged(damage(Symptom.SOCKET_CLOSED), 17.5)  # replay
    m.step_done(25.5)  # reconnect
    assert m.step_done(41.5) == Recovered()  # replay
    p = m.phases
    assert (p.detect, p.reassign, p.load, p.restore, p.replay) == (250, 1000, 2000, 8000, 20000)
    assert p.total == 31500


def test_damage_seen_before_its_fault_detects_in_no_time():
    m = machine(fault_at=5.0, at=4.0)
    m.begin(5.0)
    assert m.phases.detect == 0


def test_calls_out_of_turn_are_refused():
    m = machine()
    with pytest.raises(RuntimeError, match=r"step_done\(\) is for one that is working"):
        m.step_done(0)
    m.begin(0)
    with pytest.raises(RuntimeError, match=r"begin\(\) is for one that is new"):
        m.begin(0)
    m.step_done(1)
    m.step_done(2)
    with pytest.raises(RuntimeError, match="machine is ended"):
        m.damaged(damage(), 3)


@pytest.mark.parametrize("budget_s", [-1.0, math.nan])
def test_a_budget_that_cannot_be_meant_is_refused(budget_s):
    with pytest.raises(ValueError, match="budget_s"):
        machine(budget_s=budget_s)


class Endless:
    """A strategy that always has one more rung."""

    name = Strategy.COORDINATED
    races = 1
    resumes = True

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        return (Rung(f"rung {len(situation.failed_rungs)}", (Step.RECONNECT, Step.REPLAY), 1.0),)


def test_an_endless_strategy_ends_even_when_time_stands_still():
    m = machine(strategy=Endless())
    decision = m.begin(0)
    while isinstance(decision, Do):
        decision = m.step_failed("no", 0)
    assert isinstance(decision, GaveUp)
    assert m.attempts == MAX_ATTEMPTS


ORDERED = sorted(Step, key=lambda one: (STAGES[one], one))


@st.composite
def any_rung(draw: st.DrawFn, name: str) -> Rung:
    steps: list[Step] = []
    for stage in range(4):
        of_stage = [one for one in ORDERED if STAGES[one] == stage]
        if stage == STAGES[Step.REPLAY] or draw(st.booleans()):
            steps.append(draw(st.sampled_from(of_stage)))
    return Rung(name, tuple(steps), draw(st.floats(0.1, 100)))


class AnyStrategy:
    """Arbitrary legal rungs by symptom: the engine's promises may not lean on the ladder's contents."""

    name = Strategy.COORDINATED
    races = 1
    resumes = True

    def __init__(self, table: dict[Symptom, tuple[Rung, ...]]) -> None:
        self.table = table

    def rungs(self, situation: Situation) -> tuple[Rung, ...]:
        return self.table[situation.damage.symptom]


def any_rungs() -> st.SearchStrategy[tuple[Rung, ...]]:
    return st.integers(0, 3).flatmap(lambda n: st.tuples(*(any_rung(f"r{i}") for i in range(n))))


any_strategy = st.one_of(
    st.sampled_from(list(STRATEGIES.values())),
    st.fixed_dictionaries({symptom: any_rungs() for symptom in Symptom}).map(AnyStrategy),
)

#: How one step goes: share of its deadline that it takes, and what comes of it.
events = st.tuples(st.floats(0, 1), st.one_of(st.sampled_from(["done", "failed"]), st.sampled_from(Symptom)))


class MachineRules(RuleBasedStateMachine):
    """Drives a machine with any strategy and any luck, and holds its promises at every moment."""

    @initialize(
        strategy=any_strategy,
        symptom=st.sampled_from(Symptom),
        budget_s=st.floats(0.01, 200),
        detect_s=st.floats(0, 10),
        queue_s=st.floats(0, 10),
        spare_ready=st.booleans(),
        models=st.integers(0, 2),
    )
    def start(self, strategy, symptom, budget_s, detect_s, queue_s, spare_ready, models):
        self.fault_at = 100.0
        self.now = self.begun_at = self.fault_at + detect_s + queue_s
        self.budget_s = budget_s
        self.machine = machine(
            symptom,
            strategy=strategy,
            budget_s=budget_s,
            fault_at=self.fault_at,
            at=self.fault_at + detect_s,
            spare_ready=spare_ready,
            models=models,
        )
        self.spare_ready = spare_ready
        self.standing = symptom
        self.failed: set[tuple[Symptom, str]] = set()
        self.unlucky: set[str] = set()
        self.rung_steps: list[Step] = []
        self.done: list[Step] = []
        self.replayed = False
        self.decision: Decision = Recovered()
        self.take(self.machine.begin(self.now), fresh=True)

    def take(self, decision: Decision, *, fresh: bool) -> None:
        if isinstance(decision, Do):
            if fresh:
                self.rung_steps = []
                twice = self.machine.rungs.count(decision.rung) > 1
                failed = (self.standing, decision.rung) in self.failed
                again = decision.step is Step.USE_SPARE or (twice and decision.rung in self.unlucky)
                assert not failed or again, "a rung that failed was tried again"
                assert self.machine.rungs.count(decision.rung) <= 2 * len(Symptom)
            else:
                # A rung may run out of time between two steps; then the next one begins.
                assert isinstance(self.decision, Do)
                if decision.rung != self.decision.rung:
                    self.failed.add((self.standing, self.decision.rung))
                    self.rung_steps = []
            if self.rung_steps:
                assert STAGES[decision.step] > STAGES[self.rung_steps[-1]]
            assert decision.deadline_s >= 0
            if not self.replayed:
                left = self.begun_at + self.budget_s - self.now
                assert 0 < decision.deadline_s <= left + 1e-9
            else:
                assert decision.step is Step.REPAIR_IN_BACKGROUND
            self.rung_steps.append(decision.step)
        else:
            assert isinstance(decision, Recovered) == self.replayed
        self.decision = decision

    @precondition(lambda self: isinstance(getattr(self, "decision", None), Do))
    @rule(event=events)
    def carry_on(self, event):
        share, what = event
        assert isinstance(self.decision, Do)
        current = self.decision
        self.now += share * current.deadline_s
        if what == "done":
            self.done.append(current.step)
            self.replayed |= current.step is Step.REPLAY
            self.take(self.machine.step_done(self.now), fresh=False)
            return
        self.failed.add((self.standing, current.rung))
        if what == "failed":
            self.take(self.machine.step_failed("no", self.now), fresh=True)
            return
        if STAGES[current.step] > 0:
            self.unlucky.add(current.rung)
        if current.step is Step.REPLAY or SEVERITY[what] >= SEVERITY[self.standing]:
            self.standing = what
        self.take(self.machine.damaged(damage(what, self.now), self.now), fresh=True)

    @precondition(lambda self: not isinstance(getattr(self, "decision", None), Do))
    @rule()
    def an_ended_machine_takes_no_more(self):
        with pytest.raises(RuntimeError, match="machine is ended"):
            self.machine.step_done(self.now)

    @invariant()
    def promises_hold(self):
        if not hasattr(self, "machine"):
            return
        m = self.machine
        p = m.phases
        parts = (p.detect, p.reassign, p.load, p.restore, p.replay)
        assert all(part >= 0 for part in parts)
        assert sum(parts) <= p.total + 1e-6
        assert p.total == pytest.approx((self.now - self.fault_at) * 1000)
        assert m.steps == tuple(self.done)
        assert m.steps.count(Step.REPLAY) <= 1
        assert m.attempts <= MAX_ATTEMPTS
        assert (m.state is MachineState.ENDED) == (not isinstance(self.decision, Do))
        if not self.replayed:
            assert self.now <= self.begun_at + self.budget_s + 1e-6
        if isinstance(self.decision, Recovered):
            assert Step.REPLAY in m.steps


TestMachineRules = MachineRules.TestCase


@given(
    strategy=any_strategy,
    symptom=st.sampled_from(Symptom),
    budget_s=st.floats(0.01, 200),
    luck=st.lists(events, min_size=200, max_size=200),
)
def test_every_recovery_ends_within_its_budget(strategy, symptom, budget_s, luck):
    m = machine(symptom, strategy=strategy, budget_s=budget_s, spare_ready=True)
    now = 0.0
    decision = m.begin(now)
    turns = iter(luck)
    while isinstance(decision, Do):
        share, what = next(turns)  # StopIteration here would be a recovery that does not end
        now += share * decision.deadline_s
        if what == "done":
            decision = m.step_done(now)
        elif what == "failed":
            decision = m.step_failed("no", now)
        else:
            decision = m.damaged(damage(what, now), now)
    assert m.answered or now <= budget_s + 1e-6


@given(symptom=st.sampled_from(Symptom), spare=st.booleans(), breaks=st.lists(st.sampled_from(Symptom), max_size=3))
def test_coordinated_recovers_where_only_the_replay_keeps_breaking_differently(symptom, spare, breaks):
    assume(len({symptom, *breaks}) == len(breaks) + 1)
    m = machine(symptom, spare_ready=spare, budget_s=1000)
    decision = m.begin(0)
    todo = list(breaks)
    while isinstance(decision, Do):
        decision = m.damaged(damage(todo.pop()), 0) if decision.step is Step.REPLAY and todo else m.step_done(0)
    assert decision == Recovered()
    assert not m.repair_owed
