"""The AsyncAPI 3.0 document of an application: https://www.asyncapi.com/docs/reference/specification/v3.0.0

A channel for every topic, an operation for every publisher and every group, a message for every event type.
"""

from __future__ import annotations

from typing import Any, Final

from sampan.model import Application, Environment, Topic
from sampan.service.messaging.evolution import schema_of, topics_of

VERSION: Final = "3.0.0"
_PROTOCOLS: Final = {"nats": ("nats", 4222), "kafka": ("kafka", 9092), "rabbitmq": ("amqp", 5672)}

Document = dict[str, Any]


def document(application: Application, environment: Environment | None = None) -> Document:
    """`environment` says which broker it is; NATS where services bring their own."""
    kind = "nats" if environment is None or environment.is_local else environment.messaging
    protocol, port = _PROTOCOLS[kind]
    schemas: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    channels = {
        topic.name: _channel(topic, _message(topic, messages, schemas), protocol) for topic in topics_of(application)
    }
    return {
        "asyncapi": VERSION,
        "info": {"title": application.name, "version": application.version},
        "defaultContentType": "application/json",
        "servers": {"messaging": {"host": f"messaging:{port}", "protocol": protocol}},
        "channels": channels,
        "operations": _operations(application, channels, protocol),
        "components": {"messages": messages, "schemas": schemas},
    }


def _message(topic: Topic[Any], messages: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Put the message of `topic` among the components; its name there."""
    schema = dict(schema_of(topic.type))
    definitions = schema.pop("$defs", {})
    title = getattr(topic.type, "__name__", str(topic.type))
    if set(schema) != {"$ref"}:
        definitions = {**definitions, title: schema}
        schema = {"$ref": f"#/$defs/{title}"}
    # the same name for two things gets that of its topic in front
    names = {n: n if schemas.get(n) in (None, _moved(d, {})) else f"{topic.name}.{n}" for n, d in definitions.items()}
    schemas.update({names[n]: _moved(d, names) for n, d in definitions.items()})
    name = title if title not in messages else f"{topic.name}.{title}"
    headers = {
        "type": "object",
        "properties": {
            "sampan-version": {"type": "string", "const": str(topic.version), "description": "version of the topic"},
            "traceparent": {"type": "string", "description": "W3C Trace Context"},
            **({"sampan-key": {"type": "string", "description": f"the event's {topic.key}"}} if topic.key else {}),
        },
    }
    messages[name] = {
        "name": title,
        "title": title,
        "contentType": "application/json",
        "headers": headers,
        "payload": _moved(schema, names),
    }
    if summary := (getattr(topic.type, "__doc__", None) or "").strip().partition("\n")[0]:
        messages[name]["summary"] = summary
    return name


def _moved(value: Any, names: dict[str, str]) -> Any:
    """`value` with its references led to the components."""
    if isinstance(value, dict):
        return {
            key: f"#/components/schemas/{names.get(v.rpartition('/')[2], v.rpartition('/')[2])}"
            if key == "$ref" and isinstance(v, str)
            else _moved(v, names)
            for key, v in value.items()
        }
    return [_moved(one, names) for one in value] if isinstance(value, list) else value


def _channel(topic: Topic[Any], message: str, protocol: str) -> Document:
    channel: Document = {
        "address": topic.name,
        "servers": [{"$ref": "#/servers/messaging"}],
        "messages": {message.rpartition(".")[2]: {"$ref": f"#/components/messages/{message}"}},
    }
    if protocol == "kafka":
        channel["bindings"] = {"kafka": {"topic": topic.name, "partitions": topic.partitions}}
    elif protocol == "amqp":
        channel["bindings"] = {
            "amqp": {"is": "routingKey", "exchange": {"name": topic.name, "type": "direct", "durable": True}}
        }
    return channel


def _operations(application: Application, channels: dict[str, Any], protocol: str) -> Document:
    found: Document = {}
    for workload in application.workloads:
        for grant in workload.grants:
            name = grant.handle.name
            if grant.access not in ("publish", "subscribe") or name not in channels:
                continue
            (message,) = channels[name]["messages"]
            operation: Document = {
                "action": "send" if grant.access == "publish" else "receive",
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
                "tags": [{"name": workload.name}],
            }
            if grant.access == "publish":
                found[f"{workload.name}-publishes-{name}"] = operation
                continue
            group = grant.group or workload.name
            operation["summary"] = f"{workload.name} handles it as a member of the group {group}."
            if protocol == "kafka":
                operation["bindings"] = {"kafka": {"groupId": {"type": "string", "enum": [group]}}}
            elif protocol == "nats":
                operation["bindings"] = {"nats": {"queue": group}}
            found[f"{workload.name}-receives-{name}-as-{group}"] = operation
    return found
