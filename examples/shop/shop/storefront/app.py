"""Serves the page; everything it shows it asks of the other services."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))])
