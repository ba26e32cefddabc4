"""What the words of a loss and the names of its arguments make likely."""

from __future__ import annotations

from collections.abc import Sequence

from lossproof.checks.inference.code_words import Words
from lossproof.checks.inference.layouts import CLUES, DOMAINS, Domain
from lossproof.checks.inference.meanings import Slot

_OF_LABELS = {"index": -0.6, "float": 1.2, "binary": -0.3, "sign of rows": 1.0}


def gains_of(words: Words) -> tuple[dict[str, float], dict[str, float]]:
    """How much likelier the words of a loss make each domain and each layout."""
    domains: dict[str, float] = {}
    doubts: dict[str, float] = {}
    layouts: dict[str, float] = {}
    for clue in CLUES:
        if clue.holds(words):
            for name, gain in clue.domains.items():
                # Of several signs for one thing the strongest counts, and of those against it.
                if gain > 0:
                    domains[name] = max(domains.get(name, 0.0), gain)
                else:
                    doubts[name] = min(doubts.get(name, 0.0), gain)
            for name, gain in clue.layouts.items():
                layouts[name] = max(layouts.get(name, 0.0), gain)
    if words.spatial in (2, 3):
        right = ("image", "plane") if words.spatial == 2 else ("volume", "block")
        for name in right:
            layouts[name] = layouts.get(name, 0.0) + 3.0
    for name, doubt in doubts.items():
        domains[name] = domains.get(name, 0.0) + doubt
    return domains, layouts


def add_gains_of_names(
    slots: Sequence[Slot], main: int, domains: dict[str, float], layouts: dict[str, float]
) -> None:
    """What the names of the arguments say about the shape of the prediction."""
    meanings = {slot.meaning for slot in slots}
    words = {word for slot in slots for word in slot.words}
    gains: dict[str, float] = {}
    if meanings & {"event", "time"}:
        gains |= {"vector": 2.2, "column": 1.5}
    if "length" in meanings or words & {"pad", "padding", "padded", "token", "seq", "attention"}:
        gains["steps"] = 2.8
    if words & {"sim", "sims", "similarity", "similarities", "dist", "distances", "adj", "kernel"}:
        gains["square"] = 5.4
    if words & {"img", "imgs", "image", "images", "frame", "picture", "depth", "disp", "heatmap"}:
        gains |= {"image": 3.0, "plane": 2.6}
        domains["intensities"] = domains.get("intensities", 0.0) + 2.0
    if words & {"audio", "wave", "waveform", "wav", "signal", "speech", "est"}:
        gains |= {"track": 4.0, "wave": 4.4}
    for name, gain in gains.items():
        layouts[name] = max(layouts.get(name, 0.0), gain)
    for larger in ("picture", "large image"):
        layouts[larger] = layouts.get("image", 0.0)


def cost_of_names(slots: Sequence[Slot], main: int, against: int | None) -> dict[str, float]:
    """What the names and descriptions of prediction and target cost each domain."""
    costs = {domain.name: 0.0 for domain in DOMAINS}
    slot = slots[main]
    said = slot.description
    meaning = slot.meaning
    if said.says(r"log.?probabilit|log_softmax|logarithmi[sz]ed"):
        meaning = "log probability"
    elif said.says(r"logit|unnormali[sz]ed|raw score|before (the )?(sigmoid|softmax)"):
        meaning = "logits"
    elif said.says(r"probabilit|after (the |a )?(sigmoid|softmax)|[\[(]0(\.0)?, ?1(\.0)?[\])]"):
        meaning = "probability"
    elif said.says(r"bounding box|x1, ?y1|xyxy"):
        meaning = "box"
    several = sum(s.meaning == slot.meaning and s.partner is None for s in slots) > 1
    for domain in DOMAINS:
        costs[domain.name] += _cost_of_predicted(meaning, domain, several)
        if against is not None:
            costs[domain.name] += _cost_of_compared(slots[against], domain)
    return costs


def _cost_of_predicted(meaning: str, domain: Domain, several: bool) -> float:
    made = domain.predicted
    if meaning == "logits":
        return 2.5 if made in ("unit", "prob", "logprob", "positive") else 0.0
    if meaning == "probability":
        return -2.2 if made in ("unit", "prob") else 2.5
    if meaning == "log probability":
        return -2.4 if made == "logprob" else 1.0
    if meaning == "scale":
        return -3.0 if made == "positive" else 0.5
    if meaning == "box":
        return -5.0 if domain.name == "boxes" else 0.0
    cost = 1.5 if meaning == "embedding" and made != "float" else 0.0
    if several:
        # What is said of a pair is whether it belongs together.
        pairs = {"index": 1.0, "binary of rows": -2.7, "sign of rows": -2.5, "sign": -1.0}
        cost += pairs.get(domain.compared, 0.0)
    return cost


def _cost_of_compared(slot: Slot, domain: Domain) -> float:
    said, compared = slot.description, domain.compared
    cost = 0.0
    if slot.meaning == "labels":
        cost += {"index": -0.6, "float": 1.2, "binary": -0.3, "sign of rows": 1.0}.get(
            compared, 0.0
        )
    elif slot.meaning == "teacher":
        cost += -1.2 if domain.name in ("regression", "distributions") else 0.8
    elif slot.meaning == "mask":
        cost += {"binary": -2.0, "bool": -1.0}.get(compared, 0.5)
    elif slot.meaning == "index":
        cost += -2.0 if compared == "index" else 1.0
    elif slot.meaning == "value":
        cost += -1.0 if domain.name in ("regression", "numbers of rows") else 1.0
    if "onehot" in slot.words or said.says(r"one.?hot"):
        cost += -3.0 if compared == "onehot" else 0.6
    if said.says(r"class ind|\blong|int64|indices|\bint(eger)?s?\b|int\["):
        cost += -2.5 if compared == "index" else (-0.5 if compared == "flag" else 1.2)
    if said.says(r"-1 (or|and) \+?1|\{-1, ?\+?1\}|\+?1 (or|and) -1|\[-1, ?1\]|±1"):
        cost += -3.5 if compared.startswith("sign") else 0.8
    elif said.says(r"binary|\b0 (or|and) 1|\{0, ?1\}|0/1"):
        cost += {"binary": -2.5, "flag": -1.0, "bool": -1.0}.get(compared, 0.5)
    if said.says(r"bool"):
        cost += -3.0 if compared == "bool" else 0.5
    elif said.says(r"probabilit") and not said.says("log"):
        cost += -1.2 if compared in ("prob", "unit") else 0.0
    return cost
