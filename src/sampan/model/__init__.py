"""What a system is: inert declarations, their validation, and the graph they form. Imports nothing else of Sampan."""

from __future__ import annotations

from sampan.model.application import Application, Job, Patch, Service
from sampan.model.bound import (
    BoundBucket,
    BoundCache,
    BoundConfig,
    BoundDatabase,
    BoundSecret,
    BoundTopic,
    Reply,
    ServiceChannel,
    ServiceClient,
)
from sampan.model.handles import Bucket, Cache, Config, Database, Grant, Handle, Secret, Topic
from sampan.model.location import Location
from sampan.model.problems import ModelError, NotBound, Problem
from sampan.model.values import Environment, Grpc, Probe, Resources, Route, Scale

__all__ = [
    "Application",
    "BoundBucket",
    "BoundCache",
    "BoundConfig",
    "BoundDatabase",
    "BoundSecret",
    "BoundTopic",
    "Bucket",
    "Cache",
    "Config",
    "Database",
    "Environment",
    "Grant",
    "Grpc",
    "Handle",
    "Job",
    "Location",
    "ModelError",
    "NotBound",
    "Patch",
    "Probe",
    "Problem",
    "Reply",
    "Resources",
    "Route",
    "Scale",
    "Secret",
    "Service",
    "ServiceChannel",
    "ServiceClient",
    "Topic",
]
