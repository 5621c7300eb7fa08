"""Apache Kafka, one node in KRaft mode, from Maven Central; kept in the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from tests.servers.base import Server, free_port

VERSION = "4.1.0"
POM = Path(__file__).parent / "pom.xml"
JAVA = ["-Xmx256m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
"""


def libraries() -> Path:
    """The folder of Kafka's jars. Skips the test where they cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sampan" / f"kafka-{VERSION}"
    maven, java = shutil.which("mvn"), shutil.which("java")
    if java is None:
        pytest.skip("Kafka needs Java: apt-get install openjdk-17-jre-headless")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with (cache.parent / f"kafka-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (cache / ".complete").exists():
            return cache
        if maven is None:
            pytest.skip("Kafka comes from Maven Central: apt-get install maven")
        done = subprocess.run(
            [
                *(maven, "--quiet", "--batch-mode", "--strict-checksums", "--file", str(POM)),
                *("dependency:copy-dependencies", f"-Dkafka.version={VERSION}", "-DincludeScope=runtime"),
                f"-DoutputDirectory={cache}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            pytest.skip(f"Kafka could not be fetched from Maven Central: {done.stdout[-500:]}")
        (cache / ".complete").touch()
    return cache


def start_kafka(directory: Path, *, advertised: int | None = None) -> Server:
    """`advertised` is the port that clients are told to come to (a proxy's), if not its own."""
    folder = libraries()
    classpath, archive = f"{folder}/*", folder / "classes.jsa"
    port, controller, home = free_port(), free_port(), directory / "kafka"
    home.mkdir(parents=True, exist_ok=True)
    properties = home / "server.properties"
    properties.write_text(
        PROPERTIES.format(port=port, controller=controller, advertised=advertised or port, data=home / "data")
    )
    cluster = "s" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # never begins with a dash, as an option does
    # the first to end in good order leaves its classes behind, loaded; later ones start in half the time
    loaded = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
    format_ = ["java", *JAVA, *loaded, "-cp", classpath, "kafka.tools.StorageTool", "format"]
    done = subprocess.run(
        [*format_, "-t", cluster, "-c", str(properties)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    share = loaded[0] if loaded else f"-XX:ArchiveClassesAtExit={archive}"
    command = ["java", *JAVA, share, "-cp", classpath, "kafka.Kafka", str(properties)]
    return Server(command, port, directory / "kafka.log", f"kafka://127.0.0.1:{port}", seconds=60)
