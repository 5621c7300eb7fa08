"""Regular expressions as Kubernetes means them: RE2's syntax, and its promise of linear time.

Patterns come from whoever may define a custom kind or a policy, and run within a write, so this promise is what keeps
one of them from stopping everybody. Without `google-re2` (it comes with the extra `cluster`) Python's own are used,
which is right for reading one's own definitions, not for serving others'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

# what RE2 says -> what Go says
_WORDS = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid repetition size": "invalid repeat count",
    "no argument for repetition operator": "missing argument to repetition operator",
    "trailing \\": "trailing backslash at end of expression",
    "invalid named capture group": "invalid named capture",
}


class PatternError(ValueError):
    """A pattern that is none; the message is Go's."""


class Pattern(Protocol):
    def search(self, text: str) -> Any: ...

    def finditer(self, text: str) -> Iterator[Any]: ...


@lru_cache(maxsize=1024)
def compiled(text: str) -> Pattern:
    """Raises PatternError."""
    try:
        import re2
    except ImportError:
        return _python(text)
    options = re2.Options()
    options.log_errors = False
    try:
        made: Pattern = re2.compile(text, options=options)
    except re2.error as error:
        said = error.args[0]
        words, _, found = (said.decode(errors="replace") if isinstance(said, bytes) else str(said)).partition(": ")
        raise PatternError(f"error parsing regexp: {_WORDS.get(words, words)}: `{found}`") from None
    return made


def _python(text: str) -> Pattern:
    try:
        return re.compile(text.replace(r"\z", r"\Z"), re.ASCII)
    except re.error as error:
        raise PatternError(f"error parsing regexp: {error}") from None
