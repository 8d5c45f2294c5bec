#!/usr/bin/env python3
"""The judge is shown every sort of wrong, and every sort of right that looks like it; and a seed is a plan."""

import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

from stage.judge import Call, Hurt, judge
from stage.plan import Cast, cast, plan


def call(ended=1.0, key="k", once=True, began=0.0, bound=10.0, side="http", **more):
    return Call(key, "h0", side, "count", began, bound, once, ended=ended, **more)


def answered(text="k ran"):
    return {"n": 1, "ok": True, "result": {"content": [{"type": "text", "text": text}]}}


def failed(message="it broke", data=None, code=-31010):
    return {"n": 1, "ok": False, "error": {"message": message, "code": code, "data": data}}


def told(executed, code="delivery-unknown"):
    return failed(data={"relatch": {"code": code, "upstream": "up", "executed": executed}})


def kinds(call, ran, *hurts):
    findings, _ = judge([call], {"k": ran} if ran else {}, list(hurts))
    return sorted(finding.kind for finding in findings)


class WhatIsWrong(unittest.TestCase):
    def test_a_call_that_ran_twice_is_found_however_it_ended(self):
        for line in (answered(), told("unknown"), failed("cancelled")):
            self.assertIn("ran twice", kinds(call(line=line), 2))
        self.assertIn("ran twice", kinds(call(ended=None, without="its client was killed"), 2))

    def test_a_read_may_run_twice(self):
        self.assertEqual(kinds(call(once=False, line=answered()), 2), [])

    def test_a_result_without_an_execution_is_found(self):
        self.assertEqual(kinds(call(line=answered()), 0), ["answered without running"])
        self.assertEqual(kinds(call(once=False, line=answered()), 0), ["answered without running"])

    def test_a_false_executed_no_is_found_and_a_true_one_passes(self):
        self.assertEqual(kinds(call(line=told("no", "upstream-down")), 1), ["false `executed: no`"])
        self.assertEqual(kinds(call(line=told("no", "upstream-down")), 0), [])

    def test_executed_unknown_may_be_either(self):
        for ran in (0, 1):
            self.assertEqual(kinds(call(line=told("unknown")), ran), [])

    def test_a_call_without_an_answer_is_a_hang(self):
        self.assertEqual(kinds(call(ended=None), 1), ["hang"])

    def test_a_late_answer_is_a_hang(self):
        self.assertEqual(kinds(call(ended=11.0, line=answered()), 1), ["hang"])

    def test_the_clients_own_time_limit_is_a_hang_in_disguise(self):
        self.assertEqual(kinds(call(line=failed("MCP error -32001: Request timed out", code=-32001)), 1), ["hang"])

    def test_an_error_that_is_nobodys_is_found(self):
        self.assertEqual(kinds(call(line=failed("fetch failed", code=None)), 0), ["untruthful error"])
        self.assertEqual(kinds(call(line=failed("Internal error", code=-32603)), 0), ["untruthful error"])

    def test_incomplete_data_of_relatchs_own_is_found(self):
        self.assertEqual(kinds(call(line=told("maybe")), 0), ["untruthful error"])
        self.assertEqual(kinds(call(line=told("no", "no-such-code")), 0), ["untruthful error"])

    def test_an_answer_about_another_call_is_found(self):
        self.assertEqual(kinds(call(line=answered("other ran")), 1), ["strange answer"])

    def test_an_execution_that_nobody_asked_for_is_found(self):
        findings, _ = judge([], {"ghost": 1}, [])
        self.assertEqual([finding.kind for finding in findings], ["unknown execution"])


class WhatAFaultExcuses(unittest.TestCase):
    def test_a_broken_connection_excuses_the_clients_own_error_while_it_lasts(self):
        own = failed("fetch failed", code=None)
        self.assertEqual(kinds(call(line=own), 0, Hurt("h0", 0.5, 0.8)), [])
        self.assertEqual(kinds(call(line=own), 0, Hurt(None, 0.5, 0.8)), [])
        self.assertEqual(kinds(call(line=own), 0, Hurt("h0", 2.0, 3.0)), ["untruthful error"])
        self.assertEqual(kinds(call(line=own), 0, Hurt("h1", 0.5, 0.8)), ["untruthful error"])

    def test_the_end_of_serve_excuses_nothing_on_stdio(self):
        self.assertEqual(kinds(call(line=failed("fetch failed", code=None), side="stdio"), 0, Hurt(None, 0.5, 0.8)), ["untruthful error"])

    def test_nothing_excuses_a_bare_http_status(self):
        for words in ("Error POSTing to endpoint (HTTP 404): Session not found", "Client error '404 Not Found' for url", "HTTP 502"):
            self.assertEqual(kinds(call(line=failed(words, code=None)), 0, Hurt("h0", 0.0, 9.0)), ["untruthful error"])

    def test_nothing_excuses_a_second_execution_or_a_false_word(self):
        self.assertEqual(kinds(call(line=answered()), 2, Hurt(None, 0.0, 9.0)), ["ran twice"])
        self.assertEqual(kinds(call(line=told("no", "draining")), 1, Hurt(None, 0.0, 9.0)), ["false `executed: no`"])

    def test_a_killed_client_gets_no_answer(self):
        self.assertEqual(kinds(call(without="its client was killed"), 1), [])


class APlan(unittest.TestCase):
    played = Cast(0, "ts1", False, True, 4, ("ts1", "py1"), ("rmcp", "py2"))

    def test_the_same_seed_gives_the_same_plan_and_another_one_another(self):
        self.assertEqual(plan(7, 0, self.played, 40), plan(7, 0, self.played, 40))
        self.assertNotEqual(plan(7, 0, self.played, 40), plan(8, 0, self.played, 40))
        names = ["a", "b", "c", "d", "e"]
        self.assertEqual(cast(7, 3, names, names), cast(7, 3, names, names))

    def test_ten_rounds_meet_every_server_on_both_ways_and_every_client_on_both_sides(self):
        servers, clients = ["a", "b", "c", "d", "e", "f"], ["v", "w", "x", "y", "z"]
        for seed in range(20):
            lanes = [lane for number in range(10) for lane in cast(seed, number, servers, clients)]
            self.assertEqual({(lane.server, lane.nginx) for lane in lanes}, {(s, n) for s in servers for n in (False, True)}, seed)
            self.assertEqual({name for lane in lanes for name in lane.http}, set(clients), seed)
            self.assertEqual({name for lane in lanes for name in lane.stdio}, set(clients), seed)

    def test_ten_minutes_meet_every_kind_of_fault(self):
        kinds = {fault.kind for number in range(10) for fault in plan(1, number, self.played, 34)}
        self.assertEqual(
            kinds,
            {
                *("server-killed", "server-stopped", "nginx-killed", "nginx-reloaded"),
                *("half-open", "refused", "reset", "ended", "cut-before", "cut-half", "cut-after", "cut-answer"),
                *("client-cut", "client-killed", "relatch-killed", "relatch-restarted", "told-to-reconnect", "burst"),
            },
        )


if __name__ == "__main__":
    # The last line is the one that every test of this repository ends with.
    done = unittest.main(exit=False).result
    wrong = len(done.failures) + len(done.errors)
    print(f"{done.testsRun - wrong} passed, {wrong} failed, {len(done.skipped)} skipped")
    sys.exit(bool(wrong))
