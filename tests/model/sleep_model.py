# SPDX-License-Identifier: BSD-3-Clause
"""A model of how a reactor falls asleep and is woken (lib/event: reactor.c, quiet.c, placement.c).

Each process below is a list of steps; a step is what happens at once: one sequentially consistent
access to memory, or one system call. explore() walks through all interleavings. From every state
that can be reached there must be a way on to one in which everything is done; a state from which
there is none is a lost wake-up: the reactor sleeps, or spins, and never finds what there is to do.

A model is a set of rules with names; `Model(without={NAME})` breaks one of them, as if the code had
these two lines in the other order or one of them not at all. The tests show that each is needed.
"""
from typing import NamedTuple

HOT, ARMED, AWAY = "hot", "armed", "away"   # AWAY: on another reactor, or on its way
HERE, THERE = "here", "there"               # what placed->reactor says
DONE = -1


class Thread(NamedTuple):
    """A lightweight thread with one poller, which looks at a ring and names its kick fd."""
    where: str = HERE
    warmth: str = HOT
    quiet: bool = False
    messages: int = 0
    ring: int = 0           # requests that the guest has published
    kicks: bool = False     # the device asks for kicks
    inner: bool = False     # an edge that waits in the thread's wait fd
    outer: bool = False     # the thread's wait fd is in the ready list of the reactor's epoll
    timer: str = "none"     # "set", "due"


class State(NamedTuple):
    senders: tuple          # the next step of each process but the reactor
    pc: str = "events"      # the reactor's next step
    index: int = 0          # the thread it is at
    threads: tuple = ()
    events: int = 0
    arrival: bool = False   # an event that brings thread 0 here
    event_fd: bool = False  # an edge of event_fd that waits
    sleeping: bool = False
    look: bool = False
    poll_mode: bool = False
    cooling: bool = False   # arms one thread and goes on, instead of all to sleep
    notes: tuple = ()       # what each sender has read


def with_thread(state, index, **changes):
    threads = list(state.threads)
    threads[index] = threads[index]._replace(**changes)
    return state._replace(threads=tuple(threads))


class Model:
    """senders: for each a list of steps, (self, state, its number) -> state."""

    def __init__(self, threads, senders, poll_mode=False, busy=False, without=()):
        self.busy = busy        # something else keeps the reactor awake for ever
        self.without = set(without)
        self.senders = [steps(self) if callable(steps) else steps for steps in senders]
        self.first = State(senders=(0,) * len(self.senders), threads=tuple(threads),
                           notes=((),) * len(self.senders), poll_mode=poll_mode)

    def has(self, rule):
        return rule not in self.without

    def ordered(self, rule, *steps):
        """The steps as they are, or, without the rule, the first one last."""
        return list(steps) if self.has(rule) else [*steps[1:], steps[0]]

    # ---- all but the reactor ----

    def wake(self):
        """reactor_wake()"""
        def exchange(state, me):
            was, state = state.sleeping, state._replace(sleeping=False)
            return self.note(state, me, was)

        def write(state, me):
            return state._replace(event_fd=True) if self.noted(state, me) else state

        def look(state, me):
            return self.note(state, me, state.sleeping)

        def exchange_if(state, me):
            return exchange(state, me) if self.noted(state, me) else state
        return [look, exchange_if, write]

    @staticmethod
    def note(state, me, value):
        notes = list(state.notes)
        notes[me] = value
        return state._replace(notes=tuple(notes))

    @staticmethod
    def noted(state, me):
        return state.notes[me]

    def event(self):
        """event_call()"""
        def push(state, _):
            return state._replace(events=state.events + 1)
        return self.ordered("push the event, then look at sleeping", push, *self.wake())

    def message(self, index):
        """thread_send(), placement.c: wake()"""
        def push(state, _):
            return with_thread(state, index, messages=state.threads[index].messages + 1)

        def where(state, me):
            return self.note(state, me, state.threads[index].where)

        def quiet(state, me):
            if self.noted(state, me) == THERE:      # that one is awake
                return self.note(state, me, None)
            return self.note(state, me, state.threads[index].quiet)

        def set_look(state, me):
            return state._replace(look=True) if self.noted(state, me) else state

        def unless_there(step):
            return lambda state, me: state if self.noted(state, me) is None else step(state, me)
        # The note says None to the end when the reactor is not ours.
        wake = [unless_there(step) for step in self.wake()]
        seen = [set_look, *wake]
        if not self.has("set look, then look at sleeping"):
            # What was read as quiet must be remembered over the look at sleeping.
            def keep_quiet(state, me):
                quiet_then = self.noted(state, me)
                return self.note(state, me, None) if quiet_then is None else \
                    self.note(state, me, (quiet_then, state.sleeping))

            def act(state, me):
                if self.noted(state, me) is None:
                    return state
                quiet_then, slept = self.noted(state, me)
                if slept and state.sleeping:
                    state = state._replace(sleeping=False, event_fd=True)
                return self.note(state, me, quiet_then)
            seen = [keep_quiet, act, set_look]
        if self.has("push the message, then look where the thread is"):
            if self.has("push the message, then look at quiet"):
                return [push, where, quiet, *seen]
            return [where, quiet, push, *seen]
        return [where, push, quiet, *seen]

    def kick(self, index):
        """A guest: publishes a request, and kicks if it is asked to."""
        def publish(state, _):
            return with_thread(state, index, ring=state.threads[index].ring + 1)

        def look(state, me):
            return self.note(state, me, state.threads[index].kicks)

        def write(state, me):
            return with_thread(state, index, inner=True, outer=True) if self.noted(state, me) \
                else state
        return [publish, look, write]

    def set_mode(self, poll_mode):
        """reactor_set_mode(), reactors_stop()"""
        def store(state, _):
            return state._replace(poll_mode=poll_mode)
        return self.ordered("store the mode, then look at sleeping", store, *self.wake())

    def arrive(self):
        """placement.c: send_to(), on the reactor that thread 0 leaves"""
        def store(state, _):
            return with_thread(state, 0, where=HERE)

        def push(state, _):
            return state._replace(arrival=True)
        return [*self.ordered("store where the thread is, then let it arrive", store, push),
                *self.wake()]

    def tick(self, index):
        """A timer falls due."""
        def due(state, _):
            return with_thread(state, index, timer="due")
        return [due]

    # ---- the reactor: each method is a step and returns the states that it may lead to ----

    def warm(self, state, index):
        return with_thread(state, index, warmth=HOT, quiet=False, kicks=False)

    def step_events(self, state):
        """run_events(), arrive()"""
        if state.arrival:
            state = with_thread(state, 0, warmth=HOT)._replace(arrival=False)
        elif state.events:
            return [state._replace(events=state.events - 1)]
        return [state._replace(pc="look")]

    def step_look(self, state):
        """warm_if_sent_to()"""
        if not state.look:
            return [state._replace(pc="fds")]
        if self.has("clear look, then look at the messages"):
            state = state._replace(look=False)
        return [state._replace(pc="messages", index=0)]

    def step_messages(self, state):
        index = state.index
        if index == len(state.threads):
            if not self.has("clear look, then look at the messages"):
                state = state._replace(look=False)
            return [state._replace(pc="fds")]
        if state.threads[index].warmth == ARMED and state.threads[index].messages:
            state = self.warm(state, index)
        return [state._replace(index=index + 1)]

    def step_fds(self, state):
        """The rest of quiet_look(), which is due or not."""
        on = state._replace(pc="poll", index=0)
        if state.poll_mode and self.has("in the mode poll nobody is armed"):
            for index, thread in enumerate(state.threads):
                if thread.warmth == ARMED:
                    on = self.warm(on, index)
            return [on]
        if all(thread.warmth != ARMED for thread in state.threads) or \
                not self.has("awake, look at the fds of armed threads"):
            return [on]
        return [on, self.take_edges(on)]

    def take_edges(self, state):
        """epoll_wait() and what follows; every edge is reported once."""
        for index, thread in enumerate(state.threads):
            if thread.warmth == ARMED and ((thread.outer and thread.inner) or
                                           thread.timer == "due"):
                state = self.warm(state, index)
            state = with_thread(state, index, outer=False)
        return state._replace(event_fd=False)

    def step_poll(self, state):
        """thread_poll() of each hot thread; then it spins on or tries to sleep."""
        index = state.index
        if index == len(state.threads):
            again = state._replace(pc="events", index=0)
            if state.poll_mode or self.busy:
                return [again]
            return [again, state._replace(pc="sleep", index=0)]
        thread = state.threads[index]
        if thread.warmth != HOT:
            return [state._replace(index=index + 1)]
        state = with_thread(state, index, messages=0, ring=0,
                            timer="none" if thread.timer == "due" else thread.timer)
        on = state._replace(index=index + 1)
        if state.poll_mode:
            return [on]
        return [on, state._replace(pc="arm 0", cooling=True)]   # quiet_cool()

    SLEEP = ["store sleeping", "look at events", "look at look", "look at the mode"]

    def step_sleep(self, state):
        """reactor_sleep(), has_reason_to_stay_awake()"""
        order = list(self.SLEEP)
        if not self.has("store sleeping, then look"):
            order = [*order[1:], order[0]]
        if not self.has("look at look before sleeping"):
            order.remove("look at look")
        what = order[state.index]
        reasons = {"look at events": state.events > 0 or state.arrival,
                   "look at look": state.look, "look at the mode": state.poll_mode}
        if reasons.get(what):
            return [self.stay_awake(state)]
        if what == "store sleeping":
            state = state._replace(sleeping=True)
        if state.index + 1 < len(order):
            return [state._replace(index=state.index + 1)]
        return [state._replace(pc="arm 0", index=0)]

    @staticmethod
    def stay_awake(state):
        if state.cooling:
            return state._replace(cooling=False, pc="poll", index=state.index + 1)
        return state._replace(sleeping=False, pc="events", index=0)

    def arm_order(self):
        """quiet.c: arm(); thread_arm(); queue_arm()"""
        order = ["store quiet", "look at messages", "drain", "enable kicks", "look at the ring",
                 "look again"]
        swaps = {"store quiet, then look at the messages": ("look again", "store quiet"),
                 "enable kicks, then look at the ring": ("look at the ring", "enable kicks"),
                 "take the old edges, then look at the ring": ("look at the ring", "drain")}
        for rule, (first, second) in swaps.items():
            if not self.has(rule):
                order.remove(second)
                order.insert(order.index(first) + 1, second)
        return order

    def step_arm(self, state, at):
        order = self.arm_order()
        index = state.index
        if index == len(state.threads):
            return [state._replace(pc="wait", index=0)]
        thread = state.threads[index]
        if thread.warmth != HOT:
            return [state._replace(index=index + 1)]
        what = order[at]
        if (what in ("look at messages", "look again") and thread.messages) or \
                (what == "look at the ring" and thread.ring):
            return [self.stay_awake(self.warm(state, index))]
        if what == "store quiet":
            state = with_thread(state, index, quiet=True)
        elif what == "drain":
            state = with_thread(state, index, inner=False)
        elif what == "enable kicks":
            state = with_thread(state, index, kicks=True)
        if at + 1 < len(order):
            return [state._replace(pc=f"arm {at + 1}")]
        state = with_thread(state, index, warmth=ARMED)._replace(index=index + 1)
        return [state._replace(pc="poll", cooling=False) if state.cooling else
                state._replace(pc="arm 0")]

    def step_wait(self, state):
        """epoll_pwait2(); without one of its reasons there is no next state."""
        if not self.has("take no edge of event_fd before waiting") and state.index == 0:
            return [state._replace(event_fd=False, index=1)]
        if not state.event_fd and not any(
                thread.warmth == ARMED and (thread.outer and thread.inner or
                                            thread.timer == "due") for thread in state.threads):
            return []
        return [self.take_edges(state)._replace(sleeping=False, pc="events", index=0)]

    # ---- all of them ----

    def next_states(self, state):
        for me, at in enumerate(state.senders):
            if at != DONE:
                after = self.senders[me][at](state, me)
                steps = list(state.senders)
                steps[me] = at + 1 if at + 1 < len(self.senders[me]) else DONE
                yield after._replace(senders=tuple(steps))
        name, _, number = state.pc.partition(" ")
        step = getattr(self, f"step_{name}")
        yield from step(state, int(number)) if number else step(state)

    @staticmethod
    def is_good(state):
        """All is done; and in the mode poll the reactor is awake, and needs no kicks."""
        return (all(at == DONE for at in state.senders) and not state.events
                and not state.arrival
                and not (state.poll_mode and (state.sleeping or any(
                    thread.warmth == ARMED for thread in state.threads)))
                and all(thread.warmth != AWAY and not thread.messages and not thread.ring
                        and thread.timer == "none" for thread in state.threads))


def explore(model):
    """Returns (number of states, one from which nothing good can come or None)."""
    before = {model.first: []}          # each state, and those that lead to it
    todo = [model.first]
    while todo:
        state = todo.pop()
        for after in model.next_states(state):
            if after not in before:
                before[after] = []
                todo.append(after)
            before[after].append(state)
    reaches = {state for state in before if model.is_good(state)}
    todo = list(reaches)
    while todo:
        for state in before[todo.pop()]:
            if state not in reaches:
                reaches.add(state)
                todo.append(state)
    lost = next((state for state in before if state not in reaches), None)
    return len(before), lost
