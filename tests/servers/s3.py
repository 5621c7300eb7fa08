"""S3 as moto serves it. It believes every credential until `enforce` is called."""

from __future__ import annotations

import importlib
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.servers.base import Server, free_port

ROOT = {"access-key": "root-key", "secret-key": "root-s3cret/Key", "region": "us-east-1"}


def _allowing(actions: list[str]) -> str:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class S3Server(Server):
    def client(self, service: str = "s3") -> Any:
        """boto3, for what a test sees or prepares behind the back of the code under test."""
        return importlib.import_module("boto3").client(
            service,
            endpoint_url=self.uri,
            aws_access_key_id=ROOT["access-key"],
            aws_secret_access_key=ROOT["secret-key"],
            region_name=ROOT["region"],
        )

    def user(self, name: str, actions: list[str]) -> dict[str, str]:
        """The binding entries of a new user who may do `actions`."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=_allowing(actions))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"access-key": key["AccessKeyId"], "secret-key": key["SecretAccessKey"], "region": ROOT["region"]}

    def role(self, name: str, actions: list[str]) -> dict[str, str]:
        """Credentials, with a token, of a new role that may do `actions`."""
        iam = self.client("iam")
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=_allowing(actions))
        key = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "access-key": key["AccessKeyId"],
            "secret-key": key["SecretAccessKey"],
            "session-token": key["SessionToken"],
        }

    def enforce(self) -> None:
        """From now on every request must be signed by a user who may do it."""
        request = urllib.request.Request(f"{self.uri}/moto-api/reset-auth", b"0", {"content-type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()


def start_s3(directory: Path) -> S3Server:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return S3Server(command, port, directory / "s3.log", f"http://127.0.0.1:{port}")
