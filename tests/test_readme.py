"""The README tells of every rule, its links lead somewhere, and its figures are those measured.

That what it shows runs is tested with the pages of the guide, in `tests/docs/test_pages_run.py`.
"""

import json
import re
from pathlib import Path

import pytest

from lossproof.checks.rules import RULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RULE_ROW = re.compile(r"^\| `(LP\d{3})` \| `([a-z-]+)` \| (.+) \|$", re.MULTILINE)


def test_the_table_of_rules_is_complete():
    wanted = {rule.code: (rule.name, rule.summary.removesuffix(".")) for rule in RULES.values()}
    shown = {code: (name, summary) for code, name, summary in RULE_ROW.findall(README)}
    table = "\n".join(f"| `{code}` | `{name}` | {text} |" for code, (name, text) in wanted.items())
    assert shown == wanted, f"the table of rules in README.md should be\n\n{table}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)", README))))
def test_a_link_leads_somewhere(target):
    assert (ROOT / target).exists()


def test_the_figures_are_those_of_the_committed_results():
    def saved(name):
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def results(name):
        return saved(name)["figures"]

    mutation, alarms = results("mutation"), results("false_alarms")
    small, large = (case["methods"]["whole check"] for case in saved("cost")["cases"][:2])
    everything, holdout = mutation["total"], mutation["by_split"]["holdout"]
    right, planted = alarms["right"], alarms["planted"]
    mistakes, libraries = results("mistakes"), results("libraries")["all"]
    alone, versions = mistakes["alone"], mistakes["right"]
    slight, sign = planted["scaled by 1 + 1e-4"], planted["sign flipped at n = 1e6"]
    for figure in (
        f"found {everything['found']} of {everything['mutants']}; "
        f"cause named {everything['named']}; the mutated line shown {everything['line_exact']}",
        f"found {everything['gradcheck_fast']} (fast) to {everything['gradcheck_slow']} (slow)",
        f"found {holdout['found']} of {holdout['mutants']}; cause named {holdout['named']}",
        f"{sum(size['with_false_alarm'] for size in right.values())} false alarms in "
        f"{sum(size['checks'] for size in right.values())} checks",
        f"found {slight['found']} of {slight['checks']} | "
        f"fast: {slight['gradcheck_fast']} of {slight['checks']}",
        f"found {sign['found']} of {sign['checks']} | "
        f"fast: {sign['gradcheck_fast']} of {sign['checks']}",
        f"found {alone['found']} of {mistakes['cases']} without a reference, "
        f"{mistakes['reference']['found']} with one; an alarm on {versions['with_false_alarm']} of",
        f"found {alone['gradcheck']}; objects to {versions['gradcheck']} right ones",
        f"{libraries['with_false_alarm']} false alarm; {libraries['defects_reported']} with a true "
        f"defect reported; {libraries['seconds']['median']:.2f} s for a check",
        f"{small['wall_ms']['step']['median'] / 1000:.2f} s at 320 elements",
        f"{large['ratio']['step']['median']:.0f} forward and backward passes at a million",
    ):
        assert figure in README


def test_the_figures_of_the_catalogue_are_those_of_the_committed_results():
    folder = ROOT / "benchmarks" / "results"
    battery = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))["figures"]
    speed = json.loads((folder / "catalogue_speed.json").read_text(encoding="utf-8"))["cases"]
    ours, copies, values = battery["libraries"]["lossproof"], battery["copies"], battery["values"]

    def worst(method, quotient):
        found = [case["methods"][method].get(quotient) for case in speed]
        return f"{max(q.get('step', q)['median'] for q in found if q is not None):.2f}"

    for figure in (
        f"in {len(battery['libraries']) - 1} libraries",
        f"| {ours['failed']} of {ours['checks']} checks failed | "
        f"{copies['failed']} of {copies['checks']} |",
        f"| {battery['contract']['failed']} of {battery['contract']['checks']} checks failed | |",
        f"{values['agree']} of {values['said_to_agree']} agree to 1e-6; "
        f"{len(values['explained'])} differ and say why",
        f"eager at most {worst('lossproof', 'ratio')} of the plain formula compiled, and "
        f"{worst('lossproof', 'over_fastest_peer')} of the fastest other library; compiled at most "
        f"{worst('lossproof, compiled', 'ratio')}",
    ):
        assert figure in README
