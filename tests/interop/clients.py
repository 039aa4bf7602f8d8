"""The Python MCP client against server-everything, by path and by header; HTTP+SSE by path."""

import asyncio
import time
from contextlib import AsyncExitStack

import httpx2
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from harness import TOKEN, Proxy, check, everything, failed, finish, text, verdict

http_port = everything("streamableHttp")
sse_port = everything("sse")
proxy = Proxy([http_port, sse_port])
HTTP = f"http://127.0.0.1:{http_port}/mcp"
SSE = f"http://127.0.0.1:{sse_port}/sse"


class ByHeader(httpx2.AsyncHTTPTransport):
    """Sends every request to /forward and names its own URL in a header."""

    async def handle_async_request(self, request):
        if not proxy.direct:
            request.headers["X-Target-Url"] = str(request.url)
            request.headers["X-Proxy-Token"] = TOKEN
            request.url = httpx2.URL(f"{proxy.url}/forward")
            request.headers["Host"] = f"127.0.0.1:{proxy.port}"
        return await super().handle_async_request(request)


async def on_sampling(_context, _params):
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text="sampled-answer"), model="none", stop_reason="endTurn"
    )


def first(result):
    return result.content[0].text


async def run(name, open_streams):
    async with AsyncExitStack() as stack:

        async def connect():
            streams = await stack.enter_async_context(open_streams())
            session = await stack.enter_async_context(ClientSession(streams[0], streams[1], sampling_callback=on_sampling))
            init = await session.initialize()
            assert init.server_info.name == "mcp-servers/everything", init
            return session

        session = await check(f"{name}: initialize", connect)
        if session is None:
            return
        await check(f"{name}: ping", session.send_ping)

        async def tools():
            end = time.monotonic() + 5
            while True:
                names = [tool.name for tool in (await session.list_tools()).tools]
                if "trigger-sampling-request" in names:
                    break
                assert time.monotonic() < end, names
                await asyncio.sleep(0.05)
            assert "echo" in names, names

        await check(f"{name}: tools/list", tools)

        async def echo():
            answer = first(await session.call_tool("echo", {"message": "Grüße, 世界"}))
            assert answer == "Echo: Grüße, 世界", answer

        await check(f"{name}: tools/call echo", echo)

        async def progress():
            begun = time.monotonic()
            seen = []

            async def on_progress(*_):
                seen.append(time.monotonic() - begun)

            await session.call_tool("trigger-long-running-operation", {"duration": 1.2, "steps": 4}, progress_callback=on_progress)
            end = time.monotonic() - begun
            assert len(seen) >= 3 and seen[0] < 0.7 and end - seen[0] > 0.6, (seen, end)

        await check(f"{name}: progress arrives while the call runs", progress)

        async def sampling():
            answer = first(await session.call_tool("trigger-sampling-request", {"prompt": "anything", "maxTokens": 10}))
            assert "sampled-answer" in answer, answer

        await check(f"{name}: the server asks for a sample inside a call", sampling)

        async def resource():
            answer = await session.read_resource("demo://resource/dynamic/text/1")
            assert "Resource 1" in answer.contents[0].text, answer

        await check(f"{name}: resources/read", resource)
    verdict(f"{name}: the session ends", True)


async def guarded(name, open_streams):
    try:
        async with asyncio.timeout(60):
            await run(name, open_streams)
    except BaseException as error:  # a broken task group cancels its caller too
        if isinstance(error, KeyboardInterrupt):
            raise
        failed(f"{name}: the session ends", repr(error))


def http_by_path():
    return streamable_http_client(proxy.path(HTTP), http_client=httpx2.AsyncClient(headers=proxy.token(), timeout=30))


def http_by_header():
    return streamable_http_client(HTTP, http_client=httpx2.AsyncClient(transport=ByHeader(), timeout=30))


async def main():
    await guarded("Python mcp, streamable HTTP, by path", http_by_path)
    await guarded("Python mcp, streamable HTTP, by header", http_by_header)
    await guarded("Python mcp, HTTP+SSE, by path", lambda: sse_client(proxy.path(SSE), headers=proxy.token()))
    if not proxy.direct:
        verdict("the server printed no token", TOKEN not in text(proxy.child))


asyncio.run(main())
finish()
