"""gRPC against an implementation of another make: @grpc/grpc-js, which shares no line with grpcio's core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.model import Service
from sampan.service.rpc.client import Channel, RpcError, Target
from sampan.service.telemetry.metrics import Registry
from tests.service.rpc.echo import Echo, EchoStub, say, serving

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sampan" / "tests" / "grpc-js-1.14"
COMMON = """
const grpc = require('@grpc/grpc-js');
// google.protobuf.StringValue, short enough for one byte of length
const write = text => Buffer.concat([Buffer.from([10, Buffer.byteLength(text)]), Buffer.from(text)]);
const read = bytes => bytes.length ? bytes.subarray(2).toString() : '';
"""
CLIENT = """
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01');
const unary = (method, text, options) => new Promise(done => {
  let trailing = {};
  client.makeUnaryRequest('/test.Echo/' + method, write, read, text, metadata, options || {}, (error, value) =>
    setImmediate(() => done(error ? {code: error.code, details: error.details} : {value, trailing})))
    .on('status', status => { trailing = status.metadata.getMap(); });
});
const down = text => new Promise((done, fail) => {
  const found = [];
  client.makeServerStreamRequest('/test.Echo/Down', write, read, text, metadata)
    .on('data', value => found.push(value)).on('end', () => done(found)).on('error', fail);
});
const both = texts => new Promise((done, fail) => {
  const found = [], call = client.makeBidiStreamRequest('/test.Echo/Both', write, read, metadata);
  call.on('data', value => { found.push(value); texts.length ? call.write(texts.shift()) : call.end(); });
  call.on('end', () => done(found)).on('error', fail);
  call.write(texts.shift());
});
(async () => {
  const result = {
    unary: await unary('Say', 'hello'), missing: await unary('Say', 'missing'), broken: await unary('Say', 'broken'),
    slow: await unary('Say', 'slow', {deadline: Date.now() + 300}), unknown: await unary('Nope', 'x'),
    down: await down('a b c'), both: await both(['x', 'y', 'z']),
  };
  console.log(JSON.stringify(result));
  client.close();
})();
"""
SERVER = """
const way = (requestStream, responseStream, path) => ({path: '/test.Echo/' + path, requestStream, responseStream,
  requestSerialize: write, requestDeserialize: read, responseSerialize: write, responseDeserialize: read});
let busy = 2;
const server = new grpc.Server();
server.addService({Say: way(false, false, 'Say'), Order: way(false, false, 'Order'), Down: way(false, true, 'Down'),
  Both: way(true, true, 'Both')}, {
  Say: (call, answer) => busy-- > 0 ? answer({code: grpc.status.UNAVAILABLE, details: 'busy'})
    : answer(null, call.metadata.get('traceparent').length + ' ' + call.request),
  Order: (call, answer) => call.request === 'slow' ? null
    : answer({code: grpc.status.NOT_FOUND, details: 'nothing of that name'}),
  Down: call => { call.request.split(' ').forEach(word => call.write(word)); call.end(); },
  Both: call => { call.on('data', text => call.write(text)); call.on('end', () => call.end()); },
});
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => console.log(port));
"""


@pytest.fixture(scope="module")
def node() -> Path:
    """A directory in which Node finds @grpc/grpc-js; fetched once, kept in the user's cache."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not on this machine")
    if not (CACHE / "node_modules/@grpc/grpc-js/package.json").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--silent",
            "--prefix",
            str(CACHE),
            "@grpc/grpc-js@~1.14",
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=60, check=False, capture_output=True)
    if not (CACHE / "node_modules/@grpc/grpc-js/package.json").exists():
        pytest.skip("@grpc/grpc-js cannot be installed: no package registry within reach")
    return CACHE


@contextlib.asynccontextmanager
async def program(node: Path, code: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        "node", "-e", COMMON + code, "--", *arguments, cwd=node, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_its_client_of_our_server(node: Path) -> None:
    async def behave(text: str, context: Any) -> str:
        if text == "missing":
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")
        if text == "broken":
            raise RuntimeError("secret")
        if text == "slow":
            await asyncio.sleep(60)
        return text

    # node puts what follows `--` at argv[1]; a script file would be there otherwise
    code = "process.argv.splice(1, 0, 'script');" + CLIENT
    async with serving(Echo(behave)) as served, program(node, code, served.target) as process:
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        found = json.loads(out)
        assert served.server.calls.in_flight == 0
        assert served.count("Say", "DEADLINE_EXCEEDED") == 1
    assert found["unary"]["value"] == "hello"
    assert found["unary"]["trailing"]["x-request-id"] == "0af7651916cd43dd8448eb211c80319c"
    assert found["missing"] == {"code": 5, "details": "there is no such thing"}
    assert found["broken"] == {"code": 13, "details": "internal error"}
    assert found["slow"]["code"] == 4
    assert found["unknown"]["code"] == 12
    assert (found["down"], found["both"]) == (["a", "b", "c"], ["x", "y", "z"])


async def test_our_client_of_its_server(node: Path) -> None:
    async with program(node, SERVER) as process:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        channel = Channel(Service("echo", grpc="tests:echo"), Target(f"127.0.0.1:{port}"), Registry())
        stub: Any = channel.stub(EchoStub)
        assert (await stub.Say(say("hello"))).value == "0 hello"  # the third attempt; outside of any trace
        with pytest.raises(RpcError) as failed:
            await stub.Order(say("x"))
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "nothing of that name")
        with pytest.raises(RpcError) as failed:
            await stub.Order(say("slow"), timeout=0.3)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [m.value async for m in stub.Down(say("a b c"))] == ["a", "b", "c"]
        both = stub.Both()
        for word in ("one", "two"):
            await both.write(say(word))
            assert (await both.read()).value == word
        await both.done_writing()
        assert await both.code() is grpc.StatusCode.OK
        await channel.stop()
