"""What an option usually is: the value to try for an argument that is no tensor, by its name."""

from __future__ import annotations

import inspect
import re
from typing import Any

_FLAG = re.compile(
    r"^(is|use|has|with|do|return|apply|normali[sz]e|easy|log|size_average|from|per)_|"
    r"^(training|train|symmetric|squared|size_average|normali[sz]ed?|full|batch)$"
)
_BY_NAME: tuple[tuple[re.Pattern[str], Any], ...] = tuple(
    (re.compile(pattern), value)
    for pattern, value in (
        (r"^reduction$|^reduce$|^agg(regation)?$", "mean"),
        (r"^(eps(ilon)?|smooth(ing)?|tol(erance)?)$", 1e-6),
        (r"^(label_smoothing|smooth_eps)$", 0.1),
        (r"^(gamma|focus\w*)$", 2.0),
        (r"^(temp(erature)?|tau|margin\w*|m|alpha|beta|quantile|rho|theta|thresh(old)?)$", 0.5),
        (r"^(delta|sigma|scale|s|lam(bda)?\w*|coef\w*|\w+_(coef|factor|lambda|scale))$", 1.0),
        (r"^(w|weights|\w*_?weight|w_\w+|\w+_w)$", 1.0),
        (r"^(epoch|step|iter(ation)?|global_step|it|k|top_?k|p|norm|order|power|stride)$", 2),
        (r"^(max_epochs?|total_(epochs|steps)|num_epochs|max_steps|t_max)$", 10),
        (r"^(dim|axis)$", 1),
        (r"^ignore_(index|label)$", -100),
        (r"^(pad|pad_(idx|id|index|token_id)|padding_idx|blank)$", 0),
        (r"^(num|n|nb)_?(class(es)?|labels?|categories)$|^(classes|nclass(es)?|c|cls_num)$", 5),
        (r"^(vocab(_size)?|num_(ids|identities|embeddings))$", 5),
        (r"\w*_?(dim|dims|features|feat|hidden|embedding_size|emb_size|channels?|size)$", 6),
        (r"^(window|win|kernel)_?(size|length)?$", 3),
        (r"^(spatial_dims|ndim)$", 2),
        (r"^(seed|rank)$", 0),
        (r"^(world_size)$", 1),
        (r"^(device)$", "cpu"),
        (r"^(class_weights?|mask|samples_per_cls)$", None),
    )
)  # fmt: skip
_BY_TYPE: dict[str, Any] = {"bool": False, "int": 4, "float": 0.5}
UNKNOWN = object()
"""Nothing is known about what an option usually is."""


def natural_value(name: str, annotation: Any = inspect.Parameter.empty) -> Any:
    """The value to try for an option, or ``UNKNOWN``.

    Example:
        >>> natural_value("reduction"), natural_value("num_classes"), natural_value("gamma")
        ('mean', 5, 2.0)
        >>> natural_value("extra", float)
        0.5
    """
    word = name.lower().strip("_")
    if _FLAG.match(word):
        return False
    kind = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for pattern, value in _BY_NAME:
        if pattern.match(word):
            return float(value) if kind == "float" and isinstance(value, int) else value
    if "None" in kind or "Optional" in kind:
        return None
    return _BY_TYPE.get(kind, UNKNOWN)
