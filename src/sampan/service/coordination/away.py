"""The one failure of a coordination store. Apart, so that whoever handles it need not load a client."""

from __future__ import annotations


class Away(Exception):
    """The store does not answer, or not as it should. The message names the place, never a credential."""
