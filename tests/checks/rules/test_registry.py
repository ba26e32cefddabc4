"""Every rule has a page with its parts, a stable identity, and can be found by it."""

import ast
import importlib
import re
import subprocess
import sys

import pytest

from lossproof.checks.report import Severity, Status
from lossproof.checks.rules import FOLDER, RULES, find_rule
from lossproof.errors import UsageError

SECTIONS = ["What it does", "Why it matters", "Example", "Use instead", "Not reported"]
FIRST = {
    "LP101": "non-scalar", "LP102": "silent-broadcast", "LP103": "differs-from-reference",
    "LP201": "graph-cut", "LP202": "wrong-backward", "LP203": "grad-output-ignored",
    "LP204": "flat-loss", "LP205": "wrong-double-backward", "LP206": "gradient-path-missing",
    "LP207": "function-misuse", "LP209": "wrong-subgradient", "LP301": "nan-domain",
    "LP302": "overflow", "LP401": "input-mutated", "LP402": "inplace-on-graph",
    "LP403": "state-leak", "LP404": "nondeterministic", "LP408": "crash",
}  # fmt: skip

each_rule = pytest.mark.parametrize("code", RULES)


def test_the_names_are_those_that_were_promised():
    assert {code: RULES[code].name for code in FIRST if code in RULES} == FIRST
    assert list(RULES) == sorted(RULES)


@each_rule
def test_a_page_has_its_parts_in_order(code):
    page = RULES[code].page
    assert re.findall(r"^## (.*)$", page, re.M) == SECTIONS
    for part in re.split(r"^## .*$", page, flags=re.M)[1:]:
        assert part.strip()


@each_rule
def test_the_summary_is_one_sentence(code):
    summary = RULES[code].summary
    assert summary[0].isupper()
    assert summary.endswith(".")
    assert len(summary) <= 97
    assert RULES[code].page.splitlines()[1] == ""


@each_rule
def test_the_code_of_a_page_is_python(code):
    blocks = re.findall(r"```python\n(.*?)```", RULES[code].page, re.S)
    assert blocks
    for block in blocks:
        lines = block.splitlines()
        margin = len(lines[0]) - len(lines[0].lstrip())
        text = "\n".join(line[margin:] for line in lines)
        ast.parse("def page():\n" + "\n".join("    " + line for line in text.splitlines()) + "\n")


@each_rule
def test_a_rule_is_documented_once_and_can_be_run(code):
    module = importlib.import_module(f"lossproof.checks.rules.{RULES[code].module}")
    assert callable(module.examine)
    assert module.__doc__.strip() == RULES[code].page.strip()
    assert RULES[code] == module.RULE


def test_a_module_is_named_after_its_rule():
    for rule in RULES.values():
        assert rule.module == f"{rule.code.lower()}_{rule.name.replace('-', '_')}"
        assert (FOLDER / f"{rule.module}.py").is_file()


def test_pages_are_read_without_torch():
    code = (
        "import sys; from lossproof.checks.rules import RULES; "
        "[r.page for r in RULES.values()]; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("word", ["LP201", "lp201", "graph-cut", "Graph-Cut", " LP201 "])
def test_a_rule_is_found_by_code_or_name(word):
    assert find_rule(word) is RULES["LP201"]


@pytest.mark.parametrize(
    ("word", "near"), [("LP20", "LP20"), ("grpah-cut", "graph-cut"), ("graph_cut", "graph-cut")]
)
def test_a_word_that_is_none_gets_the_nearest(word, near):
    with pytest.raises(UsageError, match=f"no rule is called `{word}`; did you mean .*{near}"):
        find_rule(word)


def test_a_word_that_is_like_nothing_gets_no_hint():
    with pytest.raises(UsageError, match="no rule is called `zzzzzzzz`$"):
        find_rule("zzzzzzzz")


def test_verdicts_bear_the_rules_name():
    rule = RULES["LP201"]
    finding = rule.finding("x", evidence={"a": 1}, notes=["one"])
    assert (finding.code, finding.name) == ("LP201", "graph-cut")
    assert finding.severity is Severity.ERROR
    assert finding.notes == ("one",)
    assert rule.proved("1e-7").status is Status.PROVED
    assert rule.unproved("why").status is Status.UNPROVED
    assert rule.not_applicable("why").status is Status.NOT_APPLICABLE
