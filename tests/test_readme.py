"""The links of the README lead somewhere; its figures, and those of the guide, are those measured.

That what it shows runs is tested with the pages of the guide, in `tests/docs/test_pages_run.py`.
"""

import json
import re
from pathlib import Path

import pytest

from lossproof.checks.rules import RULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHARPNESS = (ROOT / "docs" / "concepts" / "how_sharp_it_is.md").read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)", README)))


def test_the_rules_are_counted():
    assert f"[{len(RULES)} rules](docs/rules/README.md)" in README


@pytest.mark.parametrize("target", LINKS)
def test_a_link_leads_somewhere(target):
    assert (ROOT / target).exists()


def saved(name):
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def results(name):
    return saved(name)["figures"]


def test_the_figures_of_the_readme_are_those_of_the_committed_results():
    mutation, right = results("mutation")["total"], results("false_alarms")["right"]
    mistakes, battery = results("mistakes"), results("catalogue")
    alone, ours, others = mistakes["alone"], battery["libraries"]["lossproof"], battery["copies"]
    for figure in (
        f"found {mutation['found']} of {mutation['mutants']}; cause named {mutation['named']} |",
        f"found {mutation['gradcheck_fast']} (fast) to {mutation['gradcheck_slow']} (slow)",
        f"{sum(size['with_false_alarm'] for size in right.values())} false alarms in "
        f"{sum(size['checks'] for size in right.values())} checks |",
        f"found {alone['found']} of {mistakes['cases']} without a reference, "
        f"{mistakes['reference']['found']} with one |",
        f"found {alone['gradcheck']}; objects to {mistakes['right']['gradcheck']} right ones |",
        f"beside {len(battery['libraries']) - 1} other libraries | "
        f"{ours['failed']} of {ours['checks']} checks failed | "
        f"the others: {others['failed']} of {others['checks']} |",
    ):
        assert figure in README


def test_the_figures_of_the_check_are_those_of_the_committed_results():
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
        assert figure in SHARPNESS


def test_the_figures_of_the_catalogue_are_those_of_the_committed_results():
    battery, speed = results("catalogue"), saved("catalogue_speed")["cases"]
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
        assert figure in SHARPNESS
