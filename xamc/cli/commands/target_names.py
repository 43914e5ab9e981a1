"""The names of targets that a command line takes."""

from __future__ import annotations

from xamc.targets.registry import CAPS

#: What --target takes, and the value of backend.type that it stands for.
TARGET_NAMES = {caps.short: caps.name for caps in CAPS.values()}


def target_name(target: str | None) -> str | None:
    """The value of `backend.type` that a name stands for; those values are taken as well.

    Raises:
        MisuseError: E1071, a name that no target has.
    """
    if target is None or target in TARGET_NAMES.values():
        return target
    if target not in TARGET_NAMES:
        from difflib import get_close_matches  # a help text needs neither

        from xamc.errors import MisuseError

        near = get_close_matches(target.lower(), [*TARGET_NAMES, *TARGET_NAMES.values()], 1, 0.7)
        raise MisuseError(
            "E1071",
            f"no target is called {target!r}",
            (f"did you mean {near[0]}? " if near else "") + f"--target takes {', '.join(TARGET_NAMES)}",
        )
    return TARGET_NAMES[target]
