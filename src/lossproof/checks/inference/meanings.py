"""What each argument of a loss means: logits, class labels, a mask, an epoch, told by its name."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lossproof.checks.inference.docstring_shapes import Description

Meaning = Literal[
    "prediction", "logits", "probability", "log probability", "embedding", "student",
    "location", "log scale", "scale", "box", "target", "labels", "teacher", "mask", "weight",
    "class weight", "length", "time", "event", "index", "value", "option", "unknown",
]  # fmt: skip

PREDICTED: frozenset[Meaning] = frozenset(
    (
        "prediction", "logits", "probability", "log probability", "embedding", "student",
        "location", "log scale", "scale", "box",
    )
)  # fmt: skip
"""A gradient is wanted for these."""
COMPARED: frozenset[Meaning] = frozenset(("target", "labels", "teacher"))

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The first row that has one of the words of a name decides.
_BY_WORD: tuple[tuple[Meaning, frozenset[str]], ...] = (
    ("option", _words("reduction epoch step iteration iter temperature temp eps epsilon smooth "
                      "margin reduce average training dim axis ignore device training_step")),
    ("length", _words("length lengths len lens il tl")),
    ("mask", _words("mask masks valid pad padding padded keep visible")),
    ("class weight", _words("classweight posweight")),
    ("weight", _words("weight weights importance weighting")),
    ("event", _words("event events censor censored censoring status observed delta")),
    ("time", _words("time times duration durations survtime")),
    ("value", _words("reward rewards return returns advantage advantages adv value values "
                     "baseline discounts")),
    ("index", _words("index indices idx ids action actions")),
    ("teacher", _words("teacher teachers ref reference old previous frozen ema")),
    ("student", _words("student students")),
    ("target", _words("gt truth true target targets targ tgt real expected annotations ytrue "
                      "groundtruth onehot correct answer")),
    ("box", _words("box boxes bbox bboxes bbx")),
    ("logits", _words("logit logits")),
    ("prediction", _words("pred preds prediction predictions predicted scores score hat")),
    ("labels", _words("label labels class classes cls lbl")),
    ("log probability", _words("logp logprob logprobs logps lprobs logpi lprob logprobas")),
    ("log scale", _words("logvar logsigma logstd logsigma2 logvariance logs logscale")),
    ("scale", _words("var variance sigma std scale stds sigmas")),
    ("location", _words("mu mean loc means mus")),
    ("probability", _words("prob probs proba probas probability probabilities")),
    ("prediction", _words("pred preds prediction predictions predicted hat yhat ypred ypr "
                          "estimate estimated recon reconstruction reconstructed generated fake "
                          "output outputs out input inputs score scores hypothesis pr risk risks "
                          "hazard hz loghz")),
    ("embedding", _words("emb embs embed embedding embeddings feature features feat feats anchor "
                         "anchors pos neg positive negative positives negatives query key hidden "
                         "z zi zj repr center centers representation representations queries keys "
                         "context")),
)  # fmt: skip
_SINGLE: dict[str, Meaning] = {
    "y": "target", "t": "target", "x": "prediction", "p": "prediction", "w": "weight",
    "h": "embedding", "q": "embedding", "k": "embedding", "a": "prediction", "u": "prediction",
    "e": "event", "m": "mask",
}  # fmt: skip
_MERGED = {
    ("log", "prob"): "logprob", ("log", "probs"): "logprobs", ("log", "p"): "logp",
    ("log", "probabilities"): "logprobs", ("log", "probability"): "logprob", ("log", "pi"): "logpi",
    ("log", "var"): "logvar", ("log", "variance"): "logvar", ("log", "sigma"): "logsigma",
    ("log", "std"): "logstd", ("log", "scale"): "logscale", ("log", "ps"): "logps",
    ("log", "hz"): "loghz", ("class", "weight"): "classweight", ("class", "weights"): "classweight",
    ("pos", "weight"): "posweight", ("one", "hot"): "onehot", ("ground", "truth"): "groundtruth",
    ("y", "true"): "ytrue", ("y", "pred"): "ypred", ("y", "hat"): "yhat", ("y", "pr"): "ypr",
}  # fmt: skip
_OPTION_TYPES = frozenset(("str", "bool", "int", "float"))
_SIDES = {"s": "student", "t": "teacher", "teacher": "teacher", "student": "student"}
_ORIGINALS = _words("x data original input inputs images action actions")
_DROPPED = frozenset("pred preds hat gt t true target targets y label teacher student s".split())


@dataclass(frozen=True)
class Slot:
    """One argument that the call needs."""

    name: str
    meaning: Meaning
    description: Description
    annotation: Any = inspect.Parameter.empty
    partner: int | None = None
    """The position of the prediction that this argument is compared with, told by its name."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the name."""
        return words_in(self.name)


def words_in(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case, with those that belong together made one.

    Example:
        >>> words_in("log_prob_chosen"), words_in("yTrue"), words_in("x1")
        (('logprob', 'chosen'), ('ytrue',), ('x', '1'))
    """
    words = [word.lower() for word in _WORD.findall(name)]
    merged: list[str] = []
    while words:
        pair = (words[0], words[1]) if len(words) > 1 else ("", "")
        if pair in _MERGED:
            merged.append(_MERGED[pair])
            del words[:2]
        else:
            merged.append(words.pop(0))
    return tuple(merged)


def meaning_of(name: str, annotation: Any = inspect.Parameter.empty) -> Meaning:
    """What an argument means by its name and type alone.

    Example:
        >>> [meaning_of(name) for name in ("y_pred", "target_mask", "logvar", "epoch", "foo")]
        ['prediction', 'mask', 'log scale', 'option', 'unknown']
    """
    kind = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    if kind in _OPTION_TYPES:
        return "option"
    words = words_in(name)
    head = words[0] if words and words[-1].isdigit() and len(words) == 2 else "".join(words)
    if len(head) == 1:
        return _SINGLE.get(head, "unknown")
    if words and words[0] == "is":
        return "mask"
    for meaning, group in _BY_WORD:
        if not group.isdisjoint(words):
            return meaning
    return "unknown"


def slots_of(
    names: Sequence[str], annotations: Sequence[Any], described: dict[str, Description]
) -> tuple[Slot, ...]:
    """The meaning of every argument, seen together with the others.

    Example:
        >>> slots = slots_of(["cls", "box", "cls_t", "box_t"], [None] * 4, {})
        >>> [(slot.meaning, slot.partner) for slot in slots]
        [('prediction', None), ('box', None), ('labels', 0), ('target', 1)]
    """
    slots = [
        Slot(name, meaning_of(name, annotation), described.get(name, Description()), annotation)
        for name, annotation in zip(names, annotations, strict=True)
    ]
    slots = _with_teachers(_with_partners(slots))
    slots = _survival(slots)
    slots = _reconstructed(slots)
    slots = _adversarial(slots)
    return tuple(_someone_predicts(slots))


def _stem(slot: Slot) -> tuple[str, ...]:
    return tuple(word for word in slot.words if word not in _DROPPED)


def _with_partners(slots: list[Slot]) -> list[Slot]:
    """`steer_gt` belongs to `steer`, `y1` to `y1pred`, and `feat_t` is the teacher of `feat_s`."""
    found = list(slots)
    for position, slot in enumerate(slots):
        stem = _stem(slot)
        if not stem or stem[0].isdigit():
            stem = tuple(word for word in slot.words if word.isdigit())
        if not stem or slot.meaning in ("mask", "weight", "length", "option"):
            continue
        for other, prediction in enumerate(slots):
            if other == position or _key(prediction) != _key(slot) or slot.words == ():
                continue
            if _compares(slot) and not _compares(prediction):
                meaning: Meaning = "teacher" if _sides(slot, prediction) else "target"
                if slot.meaning in ("labels", "teacher"):
                    meaning = slot.meaning
                found[position] = replace(slot, meaning=meaning, partner=other)
                if prediction.meaning in ("unknown", "labels", "target"):
                    found[other] = replace(prediction, meaning="prediction")
                break
    return found


def _with_teachers(slots: list[Slot]) -> list[Slot]:
    """Of `preds_s` and `preds_t`, the second is the teacher of the first."""
    found = list(slots)
    for student, teacher in itertools.permutations(range(len(slots)), 2):
        one, other = slots[student].words, slots[teacher].words
        if one[:-1] == other[:-1] and (one[-1:], other[-1:]) == (("s",), ("t",)) and one[:-1]:
            found[student] = replace(slots[student], meaning="student")
            found[teacher] = replace(slots[teacher], meaning="teacher", partner=student)
    return found


def _key(slot: Slot) -> tuple[str, ...]:
    return _stem(slot) or slot.words


def _compares(slot: Slot) -> bool:
    """Whether the name says that this is the right one of a pair."""
    last, first = slot.words[-1], slot.words[0]
    predicted = not {"pred", "preds", "hat", "s", "student", "ypred"}.isdisjoint(slot.words)
    marked = last in ("gt", "t", "true", "target", "targets", "teacher", "label") or first in (
        "gt", "target", "true", "teacher", "y",
    )  # fmt: skip
    return marked and not predicted


def _sides(slot: Slot, other: Slot) -> bool:
    return "s" in other.words or "student" in other.words


def _survival(slots: list[Slot]) -> list[Slot]:
    """Beside an event, `t` and `y` are times; an `e` without a time is nothing known."""
    names = [slot.name.lower() for slot in slots]
    events = [slot.meaning == "event" for slot in slots]
    if not any(events):
        return slots
    timed = any(slot.meaning == "time" for slot in slots) or bool({"t", "y"} & set(names))
    if not timed or len(slots) < 3:
        return [
            replace(slot, meaning="unknown") if slot.name.lower() in ("e", "delta") else slot
            for slot in slots
        ]
    return [
        replace(slot, meaning="time") if slot.name.lower() in ("t", "y") else slot for slot in slots
    ]


def _reconstructed(slots: list[Slot]) -> list[Slot]:
    """Beside a reconstruction or a mean, `x` is what it should be like."""
    words = {word for slot in slots for word in slot.words}
    made = words & {"recon", "reconstruction", "reconstructed", "decoded", "xhat", "hat"}
    located = any(slot.meaning == "location" for slot in slots)
    if any(slot.meaning in COMPARED for slot in slots) or not (made or located):
        return slots
    return [
        replace(slot, meaning="target") if slot.name.lower() in _ORIGINALS else slot
        for slot in slots
    ]


def _adversarial(slots: list[Slot]) -> list[Slot]:
    """Beside what a critic says of fakes, what it says of the real ones is predicted, too."""
    if not any("fake" in slot.words for slot in slots):
        return slots
    return [
        replace(slot, meaning="prediction", partner=None)
        if not {"fake", "real"}.isdisjoint(slot.words)
        else slot
        for slot in slots
    ]


def _someone_predicts(slots: list[Slot]) -> list[Slot]:
    """Where no name says who is predicted, the first of the unknown ones is, and a second is not.

    Of several unknown ones beside a target, all are predictions (`x1, x2, y`).
    """
    found = list(slots)
    unknown = [i for i, slot in enumerate(slots) if slot.meaning == "unknown"]
    predicted = any(slot.meaning in PREDICTED for slot in slots)
    compared = any(slot.meaning in COMPARED for slot in slots)
    if not predicted:
        rest = [i for i, slot in enumerate(slots) if slot.meaning in (*COMPARED, "value", "index")]
        first = (unknown or rest or [0])[0]
        if slots and found[first].meaning != "option":
            found[first] = replace(found[first], meaning="prediction")
            unknown = [i for i in unknown if i != first]
            compared = any(slot.meaning in COMPARED for slot in found)
            if compared:
                found = [
                    replace(s, meaning="prediction") if s.meaning == "unknown" else s for s in found
                ]
    if not compared and len(unknown) == 1 and len(slots) == 2:
        found[unknown[0]] = replace(found[unknown[0]], meaning="target")
    return found
