"""placeholder"""

from dataclasses import dataclass


@dataclass
class Repair:
    arguments: tuple
    cause: object
    location: object
    help: str


def find_repair(study, source, wrong):
    return None
