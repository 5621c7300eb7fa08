"""Starts that wait for the zygote's imports."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sampan.cluster.kubelet.supervisor import ContainerSpec
from sampan.cluster.kubelet.zygote import Zygote


def spec(directory: Path, start: int, program: str, *, patient: bool) -> ContainerSpec:
    return ContainerSpec(
        argv=[sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        hostname="x",
        log_directory=str(directory),
        scratch=str(directory),
        start=start,
        warm=True,
        patient=patient,
    )


async def test_many_that_waited_start_and_each_end_is_noticed(directory: Path) -> None:
    zygote = Zygote.start(("asyncio", "aiohttp"))
    try:
        scratch = directory / "s"
        scratch.mkdir()
        program = "import sys; print('aiohttp' in sys.modules)"
        waiting = [await zygote.spawn(spec(scratch, n, program, patient=True)) for n in range(4)]
        staying = await zygote.spawn(spec(scratch, 9, "import time; time.sleep(100)", patient=True))
        await asyncio.wait_for(staying.started(), 10)
        codes = await asyncio.wait_for(asyncio.gather(*(container.wait() for container in waiting)), 10)
        assert codes == [0, 0, 0, 0]
        assert "True" in (scratch / "3.log").read_text()
        assert staying.running
        await staying.close()
    finally:
        zygote.stop()


async def test_the_end_of_the_zygote_ends_its_containers(directory: Path) -> None:
    zygote = Zygote.start(())
    container = await zygote.spawn(spec(directory, 0, "import time; time.sleep(100)", patient=False))
    await container.started()
    zygote.stop()
    assert await asyncio.wait_for(container.wait(), 5) == 137
    for _ in range(100):
        if not Path(f"/proc/{container.pid}").exists():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the container outlived the zygote")
