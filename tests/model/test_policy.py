"""Policies and limits as they are declared: kept by name, walked as plain calls, and checked."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.model import Application, Breaker, Call, Limits, ModelError, Policy, Service, graph


def test_calls_stay_services_and_policies_are_kept_beside_them() -> None:
    users, pricing = Service("users", asgi="os:path"), Service("pricing", asgi="os:path")
    orders = Service("orders", asgi="os:path", calls=[users, Call(pricing, Policy(timeout=0.3)), Call("mailer")])
    app = Application("shop", services=[users, pricing, orders])
    assert orders.call_names == ["users", "pricing", "mailer"] and orders.calls[1] is pricing
    assert orders.policies == {"pricing": Policy(timeout=0.3), "mailer": Policy()}
    assert graph.callers(app, pricing) == [orders]
    assert "'mailer'" in str(app.problems()[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Policy(timeout=0), "Policy(timeout=0)"),
        (Policy(retries=-1), "Policy(retries=-1)"),
        (Policy(concurrency=0), "concurrency must be a whole number from 1"),
        (Policy(concurrency=2.5), "concurrency must be a whole number from 1"),  # type: ignore[arg-type]
        (Policy(timeout="3"), "timeout must be more than 0"),  # type: ignore[arg-type]
        (Policy(hedge=20), "hedge must be shorter than timeout"),
        (Policy(attempt_timeout=10), "attempt_timeout must be shorter than timeout"),
        (Policy(retry_on={200}), "retry_on takes statuses from 400 to 599"),
        (Policy(breaker=Breaker(rate=2)), "Breaker(rate=2)"),
        (Limits(least=50, concurrency=10), "least must not be above concurrency"),
        (Limits(rate=0), "Limits(rate=0)"),
        (Limits(burst=5), "burst needs a rate"),
        (Limits(exempt=["events"]), "a path prefix begins with /"),
        (Limits(priority={"/a": 9}), "a priority is 0 (first) to 7 (last)"),
    ],
)
def test_mistakes_say_what_was_written_and_how_to_mend_it(wrong: Any, message: str) -> None:
    users = Service("users", asgi="os:path", limits=wrong if isinstance(wrong, Limits) else None)
    orders = Service("orders", asgi="os:path", calls=[Call(users, wrong) if isinstance(wrong, Policy) else users])
    with pytest.raises(ModelError) as caught:
        Application("shop", services=[users, orders]).validate()
    assert message in str(caught.value)
    assert ("'users'" in str(caught.value)) and "test_policy.py" in str(caught.value)


def test_the_defaults_are_no_mistake() -> None:
    users = Service("users", asgi="os:path", limits=Limits())
    orders = Service("orders", asgi="os:path", calls=[Call(users)])
    problems = Application("shop", services=[users, orders]).problems()
    assert not [problem for problem in problems if "asgi=" not in problem.message]  # which names no application here
