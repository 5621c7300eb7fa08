"""The systems that are compiled in the tests of this room."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan import (
    Application,
    Bucket,
    Cache,
    Config,
    Database,
    Environment,
    Job,
    Probe,
    Resources,
    Scale,
    Secret,
    Service,
    Topic,
)
from sampan.compile import Backing, compile_application
from sampan.kube.objects import Object

ASGI = "fastapi:FastAPI"


@dataclass
class Placed:
    id: int = 0


@dataclass
class Settings:
    currency: str = "EUR"
    limit: int = 500
    regions: list[str] = field(default_factory=lambda: ["eu", "us"])
    note: str | None = None


def hello() -> Application:
    return Application("hello", services=[Service("web", asgi=ASGI, public="/")], environments=[Environment("prod")])


def market() -> Application:
    """Uses everything there is."""
    orders_db = Database("orders", migrations="migrations")
    stock_db = Database("stock", engine="postgresql")
    prices, photos, stripe = Cache("prices"), Bucket("photos"), Secret("stripe", keys=["api-key"])
    settings, placed = Config("checkout", Settings), Topic("placed", Placed)
    stock = Service("stock", asgi=ASGI, uses=[stock_db.read_write(), prices.read_write()], replicas=2)
    orders = Service(
        "orders",
        asgi=ASGI,
        uses=[orders_db.read_write(), placed.publish(), settings, stripe],
        calls=[stock],
        public=["/api/orders", "partners.example.com/orders"],
        rewrite="/",
        scale=Scale(2, 6, cpu=50, memory=75),
        resources=Resources(cpu="500m", memory="256Mi", limits={"cpu": "1500m"}),
        env={"LANG": "C.UTF-8", "EMPTY": ""},
        startup=Probe("/health", period=1, failures=120, delay=1),
        egress=["203.0.113.0/24:443"],
    )
    mailer = Service("mailer", uses=[placed.subscribe("asyncio:sleep", group="mailer"), photos.read()], port=9000)
    system = Application(
        "market",
        services=[stock, orders, mailer],
        jobs=[
            Job("seed", run="json:dumps", uses=[orders_db.read_write()]),
            Job("report", run="json:dumps", schedule="0 3 * * *", time_zone="Europe/Berlin", calls=[orders]),
        ],
        environments=[
            Environment(
                "prod",
                host="market.example.com",
                registry="registry.example.com/team/",
                tag="1.2.3",
                tls_secret="market-tls",
                ingress_class="nginx",
                values={
                    orders: {"scale": Scale(3, 30), "env": {"LANG": "en_GB.UTF-8"}},
                    settings: {"limit": 900, "note": "two\nlines"},
                },
            ),
        ],
    )

    @system.patch(orders, kind="Deployment", environment="prod")
    def spot_nodes(manifest: Object) -> None:
        manifest["spec"]["template"]["spec"]["nodeSelector"] = {"pool": "spot"}

    return system


def shop() -> Application:
    folder = str(Path(__file__).parents[2] / "examples/shop")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from shop.system import shop as system

    return system


SYSTEMS: dict[str, Callable[[], Application]] = {"hello": hello, "market": market, "shop": shop}
PLACES: dict[str, tuple[str, Backing | None]] = {
    "dev": ("dev", Backing()),
    "dev-sqlite": ("dev", Backing(frozenset())),
    "prod": ("prod", None),
}


@dataclass
class Case:
    name: str
    app: Application
    environment: str
    backing: Backing | None

    @property
    def objects(self) -> list[Object]:
        return compile_application(self.app, self.environment, backing=self.backing, reference="system:app")

    def one(self, kind: str, name: str) -> Object:
        found = [obj for obj in self.objects if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} {kind} {name}"
        return found[0]


@pytest.fixture(params=[f"{system}-{place}" for system in SYSTEMS for place in PLACES])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    system, _, place = str(request.param).partition("-")
    yield Case(request.param, SYSTEMS[system](), *PLACES[place])


@pytest.fixture
def make() -> Callable[[str, str], Case]:
    return lambda system, place: Case(f"{system}-{place}", SYSTEMS[system](), *PLACES[place])
