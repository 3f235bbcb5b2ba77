# SPDX-License-Identifier: BSD-3-Clause
"""No wake-up is lost, in whatever order things happen; and every rule of the protocol is needed."""

import pytest
from sleep_model import AWAY, THERE, Model, Thread, explore

# What happens beside the reactor: its threads, the other processes, and what else is special.
SCENES = {
    "two events": ([], [Model.event, Model.event], {}),
    "a message": ([Thread()], [lambda m: m.message(0)], {}),
    "a message and an event": ([Thread()], [lambda m: m.message(0), Model.event], {}),
    "two messages": ([Thread()], [lambda m: m.message(0), lambda m: m.message(0)], {}),
    "a request": ([Thread()], [lambda m: m.kick(0)], {}),
    "two requests, one after the other": (
        [Thread()], [lambda m: m.kick(0) + m.kick(0)], {}),
    "a request and a message": ([Thread()], [lambda m: m.kick(0), lambda m: m.message(0)], {}),
    "a request beside a message to another": (
        [Thread(), Thread()], [lambda m: m.kick(0), lambda m: m.message(1)], {}),
    "a timer and a request": ([Thread(timer="set")], [lambda m: m.tick(0), lambda m: m.kick(0)],
                              {}),
    "to the mode poll": ([Thread()], [lambda m: m.set_mode(True), lambda m: m.kick(0)], {}),
    "from the mode poll": ([Thread()], [lambda m: m.set_mode(False), lambda m: m.kick(0)],
                           {"poll_mode": True}),
    "a thread comes": ([Thread(where=THERE, warmth=AWAY)],
                       [Model.arrive, lambda m: m.message(0)], {}),
    "a thread comes, with a request": ([Thread(where=THERE, warmth=AWAY)],
                                       [Model.arrive, lambda m: m.kick(0)], {}),
    "a request beside a busy thread": ([Thread()], [lambda m: m.kick(0)], {"busy": True}),
    "a message beside a busy thread": ([Thread()], [lambda m: m.message(0), lambda m: m.message(0)],
                                       {"busy": True}),
    "a timer beside a busy thread": ([Thread(timer="set")], [lambda m: m.tick(0)], {"busy": True}),
    "to the mode poll beside a busy thread": (
        [Thread()], [lambda m: m.set_mode(True), lambda m: m.kick(0)], {"busy": True}),
}

# Each rule, and the scenes in which breaking it loses a wake-up.
RULES = {
    "push the event, then look at sleeping": {"two events"},
    "push the message, then look where the thread is": {"a thread comes"},
    "push the message, then look at quiet": {"a message"},
    "set look, then look at sleeping": {"a message"},
    "store the mode, then look at sleeping": {"to the mode poll"},
    "store where the thread is, then let it arrive": {"a thread comes"},
    "clear look, then look at the messages": {"two messages"},
    "in the mode poll nobody is armed": {"to the mode poll"},
    "awake, look at the fds of armed threads": {"a request beside a busy thread",
                                                "a timer beside a busy thread"},
    "store sleeping, then look": {"two events"},
    "look at look before sleeping": {"two messages"},
    "store quiet, then look at the messages": {"a message"},
    "enable kicks, then look at the ring": {"a request"},
    "take the old edges, then look at the ring": {"a request"},
    "take no edge of event_fd before waiting": {"two events"},
}


@pytest.mark.parametrize("scene", SCENES)
def test_no_wake_up_is_lost(scene):
    threads, senders, special = SCENES[scene]
    count, lost = explore(Model(threads, senders, **special))
    assert count > 20
    assert lost is None


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_needed(rule):
    for scene in RULES[rule]:
        threads, senders, special = SCENES[scene]
        _, lost = explore(Model(threads, senders, **special, without={rule}))
        assert lost is not None, scene
