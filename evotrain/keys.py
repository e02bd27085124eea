"""What describes one configuration key: its default, its meaning, and the words it may take."""

from dataclasses import field
from typing import Any


def key(default: Any, meaning: str, choices: tuple[str, ...] = ()) -> Any:
    """A configuration key: its default, its one-line meaning, and the words it may take (empty: any)."""
    metadata = {"meaning": meaning, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(cls: type, meaning: str) -> Any:
    """A nested group of keys."""
    return field(default_factory=cls, metadata={"meaning": meaning, "choices": ()})
