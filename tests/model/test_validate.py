"""Every mistake is reported, with the line and the way to mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import Struct

import sampan.model
from sampan import (
    Application,
    Cache,
    Config,
    Database,
    Environment,
    Every,
    Grpc,
    Handle,
    Job,
    ModelError,
    Probe,
    Problem,
    Resources,
    Scale,
    Secret,
    Service,
    Topic,
)
from sampan.model import arguments, graph
from sampan.model.application import Workload
from sampan.model.syntax import quantity, schedule, suggest_label

ASGI = "fastapi:FastAPI"  # any import string that resolves
RUN = "json:dumps"


@dataclass
class Event:
    id: int = 0


@dataclass
class Settings:
    fee: int = 1
    banner: str = ""


def app(*services: Service, **more: Any) -> Application:
    return Application("shop", services=list(services), **more)


def web(name: str = "web", **more: Any) -> Service:
    return Service(name, asgi=ASGI, **more)


db = Database("users")
topic = Topic("placed", Event)
checkout = Config("checkout", Settings)


def circle() -> Application:
    return app(web("a", calls=["b"]), web("b", calls=["c"]), web("c", calls=["a"]))


def two_databases() -> Application:
    return app(web("a", uses=[Database("x").read()]), web("b", uses=[Database("x").read()]))


def wrong_patch() -> Application:
    system = app(web())
    system.patch(db, "StatefulSet")(lambda manifest: None)
    return system


def unknown_patch_environment() -> Application:
    service = web()
    system = app(service)
    system.patch(service, "Deployment", environment="prd")(lambda manifest: None)
    return system


def in_prod(service: Service, thing: Any, **values: Any) -> Application:
    return app(service, environments=[Environment("prod", values={thing: values})])


def overridden(**values: Any) -> Application:
    service = web()
    return in_prod(service, service, **values)


MISTAKES: list[tuple[Callable[[], Application], str, str]] = [
    (lambda: app(web("Orders")), "service 'Orders' is not a DNS label", '"orders"'),
    (lambda: app(web("orderItems")), "'orderItems' is not a DNS label", '"order-items"'),
    (lambda: app(web("9lives")), "is not a DNS label", '"lives"'),
    (lambda: app(web("")), "'' is empty", "letter"),
    (lambda: app(web("x" * 60)), "60 characters", "x"),
    (lambda: app(web(), web()), "'web' is declared twice", "another name"),
    (lambda: Application("shop", services=[web()], jobs=[Job("web", RUN)]), "declared twice", "another name"),
    (two_databases, "database 'x' is declared twice, first at", "another name"),
    (lambda: app(web("users-db", uses=[db.read()])), "has the name of the server behind Database('users')", "another"),
    (lambda: app(web(calls=[web("other")])), "calls 'other', which is not a service", "add it to services"),
    (lambda: app(web(calls=["usres"]), web("users")), "calls 'usres'", "did you mean 'users'?"),
    (lambda: app(web(calls=["mailer"]), Service("mailer", uses=[topic.subscribe(RUN)])), "serves no HTTP", "topic"),
    (circle, "circle: a -> b -> c -> a", "event"),
    (lambda: app(web(calls=["web"])), "circle: web -> web", "event"),
    (lambda: app(web("a", public="/x"), web("b", public="/x/")), "both claim the public path '/x'", "another path"),
    (lambda: app(web(public="x")), "public path 'x'", '"/x"'),
    (lambda: app(web(uses=[db])), "uses Database('users') without saying how", ".read() or .read_write()"),
    (lambda: app(web(uses=[web("b")])), "in `uses`", "calls=["),
    (lambda: app(web(uses=["users"])), "not a resource", "grants"),
    (lambda: app(Service("web", asgi="fastapi:FastApi")), "'FastApi', which fastapi does not define", "'FastAPI'"),
    (lambda: app(Service("web", asgi="nowhere.app:app")), "nowhere.app, which does not exist", "correct the name"),
    (lambda: app(Service("idle")), "does nothing", "asgi="),
    (lambda: app(Service("s", grpc="nowhere.rpc:add")), "grpc='nowhere.rpc:add'", "create it"),
    (lambda: app(Service("s", grpc=Grpc("json:loads", port=8080))), "HTTP and gRPC on one port", "port=9090"),
    (lambda: app(Service("s", grpc=Grpc("json:loads", max_message=0))), "gRPC max_message 0", "more than 0"),
    (lambda: app(Service("w", uses=[topic.subscribe("json:dumps")])), "is not an async function", "async def"),
    (lambda: app(web(), jobs=[Job("j", RUN, schedule="0 25 * * *")]), "hour is '25'; it goes from 0 to 23", "0 3"),
    (lambda: app(web(), jobs=[Job("j", RUN, schedule="* * * *")]), "4 fields instead of 5", "0 3"),
    (lambda: app(web(), jobs=[Job("j", RUN, uses=[topic.subscribe(RUN)])]), "subscribes to Topic", "only a service"),
    (lambda: app(web(scale=Scale(0))), "at least 0 instances", "1 or more"),
    (lambda: app(web(scale=Scale("3"))), "has scale.minimum='3'", "a whole number"),  # type: ignore[arg-type]
    (lambda: app(web(scale=Scale(1, True))), "has scale.maximum=True", "a whole number or None"),
    (lambda: app(web(port="80")), "has port='80'", "a whole number"),
    (lambda: app(web(scale=3)), "has scale=3", "a Scale or None"),
    (lambda: app(web(egress=[443])), "has egress=[443]", "a list, each text"),
    (lambda: app(web(resources=Resources(limits={"cpu": 1}))), "limits={'cpu': 1}", "mapping of text to text"),  # type: ignore[dict-item]
    (lambda: app(web(background=[Every("60", RUN)])), "background[0].seconds='60'", "a number"),  # type: ignore[arg-type]
    (lambda: app(web(uses=[Database("d", pool=5).read()])), "Database('d') has pool=5", "a Pool or None"),  # type: ignore[arg-type]
    (lambda: app(web(), environments=[Environment("prod", host=80)]), "('prod') has host=80", "text or None"),  # type: ignore[arg-type]
    (lambda: app(web(), environments=[Environment("prod", messaging="nat")]), "messaging='nat'", "'nats' or"),  # type: ignore[arg-type]
    (lambda: overridden(replicas="3"), "scale.minimum='3' in environment 'prod'", "a whole number"),
    (lambda: app(web(scale=Scale(3, 2))), "from 3 to 2", "not below"),
    (lambda: app(web(scale=Scale(1, 2, cpu=150))), "cpu=150", "percentage"),
    (lambda: app(web(scale=Scale(2, cpu=50))), "nothing to scale to", "maximum"),
    (lambda: app(web(resources=Resources(cpu="half"))), "requests cpu 'half'", "250m"),
    (lambda: app(web(resources=Resources(memory="1Gi", limits={"memory": "512Mi"}))), "less than the 1Gi", "raise"),
    (lambda: app(web(env={"PORT": "1"})), "sets PORT", "another name"),
    (lambda: app(web(env={"N": 1})), "sets N to 1", '"1"'),
    (lambda: app(web(port=0)), "port 0", "65535"),
    (lambda: app(web(readiness=Probe("ready"))), "probe path 'ready'", "slash"),
    (lambda: app(web(uses=[Database("x", engine="mysqll").read()])), "engine 'mysqll'", "'mysql'"),
    (lambda: app(web(uses=[Config("c", int)])), "which has no fields", "Struct"),
    (lambda: app(web(uses=[Config("c", Settings, {"fees": 1})])), "no field 'fees'", "'fee'"),
    (lambda: app(web(), environments=[Environment("prod", values={db: {"engine": "sqlite"}})]), "not have", "object"),
    (lambda: overridden(scales=1), "overrides 'scales'", "'scale'"),
    (lambda: overridden(scale=Scale(0)), "in environment 'prod' has at least 0", "1 or more"),
    (lambda: in_prod(web(uses=[checkout]), checkout, fee="much"), "environment 'prod'", "accepts"),
    (lambda: in_prod(web(uses=[checkout]), checkout, fees=2), "overrides 'fees'", "'fee'"),
    (lambda: app(web(env={"A-B": "x"})), "sets 'A-B'", "underscores"),
    (lambda: app(web(egress=["example.com:443"])), "egress 'example.com:443'", "203.0.113.0/24:443"),
    (lambda: app(web(egress=["10.0.0.0/8"])), "ends with no port", "203"),
    (lambda: app(web(), jobs=[Job("j", RUN, schedule="@daily", time_zone="Mars/Base")]), "time zone 'Mars/Base'", "Eu"),
    (lambda: app(web(), jobs=[Job("j", RUN, timeout=0)]), "timeout=0", "1 second"),
    (lambda: app(web(), environments=[Environment("prod", host="https://x.org/")]), "no host name", "scheme"),
    (lambda: app(web(), environments=[Environment("prod", telemetry="u:p@c:4318")]), "telemetry 'c:4318'", "HEADERS"),
    (lambda: app(web(), environments=[Environment("prod", namespace="Prod")]), "namespace 'Prod'", '"prod"'),
    (lambda: app(web(), environments=[Environment("prod"), Environment("prod")]), "'prod' is declared twice", "name"),
    (lambda: in_prod(web(uses=[db.read()]), db, engine="oracle"), "engine 'oracle' in environment 'prod'", "mysql"),
    (wrong_patch, "a patch is for Database('users')", "patch a service"),
    (unknown_patch_environment, "environment 'prd', which is unknown", "there are: dev"),
]


@pytest.mark.parametrize(("make", "message", "remedy"), MISTAKES)
def test_a_mistake_is_reported(make: Callable[[], Application], message: str, remedy: str) -> None:
    found = [problem for problem in make().problems() if problem.severity == "error"]
    matching = [problem for problem in found if message in problem.message and remedy in problem.remedy]
    assert matching, "\n".join(map(str, found))
    assert all(problem.location is not None and problem.location.file == __file__ for problem in found)


def test_annotations_are_known_while_running() -> None:
    """What only type checkers can name is not looked at: of all that a user may give, it is `uses` alone, which a check
    of its own looks at."""
    values = [thing for thing in vars(sampan.model).values() if isinstance(thing, type)]
    declared = [kind for kind in values if issubclass(kind, (Struct, Handle, Workload, Application))]
    unknown = {
        f"{kind.__name__}.{name}" for kind in declared for name, hint in arguments.wanted(kind).items() if hint is Any
    }
    assert len(declared) > 25
    assert unknown == {"Job.uses", "Service.uses", "ObjectInfo.modified", "Patch.function", "Patch.target"}


def test_one_text_is_a_list_of_one() -> None:
    service = web(egress="203.0.113.0/24:443", background=RUN, readiness_checks=RUN)
    assert (service.egress, service.background, service.readiness_checks) == (["203.0.113.0/24:443"], [RUN], [RUN])
    assert Secret("s", "password").keys == ("password",)


def test_all_mistakes_come_together_with_the_source_line() -> None:
    bad = Service("Web", asgi="nowhere:app", scale=Scale(3, 2))
    with pytest.raises(ModelError) as caught:
        app(bad).validate()
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert text.startswith("3 problems in the declaration")
    assert text.count('bad = Service("Web", asgi="nowhere:app", scale=Scale(3, 2))') == 3
    assert f"test_validate.py:{bad.location.line}" in text


def test_doubts_do_not_stop_anything() -> None:
    lonely = app(web(uses=[topic.publish()]))
    assert [problem.message for problem in lonely.validate()] == ["nothing subscribes to Topic('placed')"]
    unheard = app(Service("w", uses=[topic.subscribe("tests_nowhere:f")]))
    assert "nothing publishes Topic('placed')" in [p.message for p in unheard.problems() if p.severity == "warning"]


def test_the_same_path_on_two_hosts_is_fine() -> None:
    assert app(web("a", public="a.example.com/"), web("b", public=["b.example.com/", "/"])).problems() == []


def test_an_unknown_environment_names_the_known_ones() -> None:
    system = app(web(), environments=[Environment("prod")])
    assert system.environment("dev").is_local
    assert not system.environment("prod").is_local
    with pytest.raises(ModelError, match="no environment 'staging'"):
        system.environment("staging")


def test_names_are_looked_up() -> None:
    system = app(web(uses=[db.read()]), jobs=[Job("j", RUN)])
    assert (system.service("web").name, system.job("j").name, system.database("users")) == ("web", "j", db)
    with pytest.raises(KeyError, match="there are: web"):
        system.service("users")


def test_the_graph_answers() -> None:
    a, b = web("a", uses=[db.read_write(), topic.publish(), Secret("s")]), web("b", calls=["a"], uses=[db.read()])
    c = Service("c", uses=[topic.subscribe("x:y"), Cache("k").read()])
    system = app(a, b, c)
    assert graph.callers(system, a) == [b]
    assert graph.users(system, db) == [a, b]
    assert graph.publishers(system, topic) == [a]  # type: ignore[arg-type]
    assert graph.subscribers(system, topic) == [c]  # type: ignore[arg-type]
    assert {(e.source.name, e.relation, e.target.name) for e in graph.edges(system)} == {
        ("a", "read_write", "users"),
        ("a", "publish", "placed"),
        ("a", "reads", "s"),
        ("b", "calls", "a"),
        ("b", "read", "users"),
        ("c", "subscribe", "placed"),
        ("c", "read", "k"),
    }


def test_problems_print_themselves() -> None:
    assert str(Problem("it is wrong", None, "mend it")) == "error: it is wrong\n   = mend it"


@pytest.mark.parametrize("text", ["*/5 * * * *", "0 3 * * mon-fri", "0 0 1,15 jan *", "@daily", "0-30/10 1 * * 7"])
def test_schedules(text: str) -> None:
    assert schedule(text) is None


@pytest.mark.parametrize(
    "text", ["@never", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "a * * * *", "1-2-3 * * * *", ""]
)
def test_schedules_that_are_wrong(text: str) -> None:
    assert schedule(text)


def test_quantities() -> None:
    assert quantity("250m") == quantity("0.25")
    assert quantity("1Ki") == 1024
    assert quantity("-1") is quantity("1mi") is quantity(1) is None
    assert suggest_label("My Service!") == "my-service"


def test_a_topic_whose_key_partitions_or_group_cannot_be() -> None:
    class Placed:
        user_id: int

    topic: Topic[Placed] = Topic("user_events", Placed, key="user", partitions=0)
    service = Service("s", uses=[topic.publish(), topic.subscribe("os:getcwd", group="a.b")])
    texts = [str(problem) for problem in Application("app", services=[service]).problems()]
    assert any("has the key 'user', which its events lack" in text and "user_id" in text for text in texts)
    assert any("has 0 partitions" in text for text in texts)
    assert any("in the group 'a.b'" in text for text in texts)
    assert not any("the name of topic" in text for text in texts)
