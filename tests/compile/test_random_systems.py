"""Any application that validates compiles to objects Kubernetes accepts, whatever it is made of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from sampan import (
    Application,
    Bucket,
    Cache,
    Config,
    Database,
    Environment,
    Job,
    Resources,
    Route,
    Scale,
    Secret,
    Service,
    Topic,
)
from sampan.compile import Backing, compile_application, local_secrets
from sampan.kube import schema


@dataclass
class Anything:
    text: str = ""


LONGEST = "l" + "o" * 38 + "g"
NAMES = ["a", "users", "order-items", LONGEST, "x9"]
ASGI, RUN, HANDLER = "fastapi:FastAPI", "json:dumps", "asyncio:sleep"


def system(chance: random.Random) -> Application:
    def some(things: list[Any]) -> list[Any]:
        return chance.sample(things, chance.randint(0, len(things)))

    handles: dict[str, list[Any]] = {
        "database": [
            Database(n, engine=chance.choice(["mysql", "postgresql", "sqlite"]), migrations="m") for n in NAMES
        ],
        "cache": [Cache(name) for name in NAMES],
        "bucket": [Bucket(name) for name in NAMES],
    }
    topics = [Topic(name, Anything) for name in NAMES]
    plain: list[Any] = [Config(name, Anything) for name in NAMES] + [Secret(name, ["key"]) for name in NAMES]

    def uses() -> list[Any]:
        grants = [chance.choice([h.read, h.read_write])() for kind in handles.values() for h in some(kind)]
        return [*grants, *some(plain), *(topic.publish() for topic in some(topics))]

    services: list[Service] = []
    for number, name in enumerate(NAMES):
        service = Service(
            f"s-{name}",
            asgi=ASGI,
            uses=[*uses(), *(topic.subscribe(HANDLER) for topic in some(topics))],
            calls=some(services),
            public=[Route(f"/p{number}", chance.choice([None, "h.example.com"]), chance.choice([None, "/", "/v1"]))],
            scale=Scale(chance.randint(1, 3), chance.choice([None, 5]) or 3),
            resources=Resources(chance.choice(["1", "0.5", "250m"]), chance.choice(["1Gi", "100M", "64Mi"])),
            port=chance.choice([80, 8080]),
        )
        services.append(service)
    jobs = [
        Job(f"j-{name}", RUN, uses=uses(), calls=some(services), schedule=chance.choice([None, "@daily"]))
        for name in NAMES
    ]
    return Application(LONGEST, services=services, jobs=jobs, environments=[Environment("prod", host="e.example.com")])


@pytest.mark.parametrize("seed", range(8))
def test_random_systems(seed: int) -> None:
    app = system(random.Random(seed))
    for environment, backing in (("dev", Backing()), ("dev", Backing(frozenset({"mysql"}))), ("prod", None)):
        objects = compile_application(app, environment, backing=backing, reference="m:a")
        secrets = local_secrets(app, environment, backing=backing) if backing else []
        keys = [(obj["kind"], obj["metadata"]["name"]) for obj in objects]
        assert len(set(keys)) == len(keys)
        for obj in [*objects, *secrets]:
            found = schema.for_kind(obj["apiVersion"], obj["kind"])
            assert found is not None
            assert [*schema.unknown_fields(found, obj), *schema.validate(found, obj)] == [], obj["metadata"]["name"]
            assert len(obj["metadata"]["name"]) <= (52 if obj["kind"] == "CronJob" else 63)
            for volume in obj.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", []):
                assert len(volume["name"]) <= 63
