"""Watch: during training, which term, which sample, which line went wrong."""

from __future__ import annotations

from lossproof.errors import GuardRetiredWarning, TrainingAlarmError, TrainingAlarmWarning
from lossproof.watcher.alarm import Alarm, AlarmKind, Diagnosis, StepFigures
from lossproof.watcher.guard import Guard, watch

__all__ = [
    "Alarm",
    "AlarmKind",
    "Diagnosis",
    "Guard",
    "GuardRetiredWarning",
    "StepFigures",
    "TrainingAlarmError",
    "TrainingAlarmWarning",
    "watch",
]
