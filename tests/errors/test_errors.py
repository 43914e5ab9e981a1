"""Errors cross process borders whole: workers and children raise them for the user."""

import pickle
from pathlib import Path

import pytest

from xamc.errors import InputError, InternalError, Location, MisuseError, ToolchainError, UnsupportedError


@pytest.mark.parametrize("cls", [InputError, MisuseError, UnsupportedError, ToolchainError, InternalError])
def test_errors_are_pickled_whole(cls: type[InputError]) -> None:
    place = Location(Path("build.yaml"), 3, 5, 2, "here")
    error = cls("E1042", "two keys disagree", fix="change one", locations=(place,), details=("a", "b"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls and vars(copy) == vars(error) and str(copy) == str(error)
    assert copy.exit_code == error.exit_code
