"""The blocking and the async OpenAI client behind one door, so that each check is written once and made with both."""
import asyncio
import inspect

import openai


class Api:
    """One client. `do` waits for whatever a call returns."""

    def __init__(self, kind, base, key, loop=None, **options):
        self.kind = kind.__name__
        self.options = options
        self.make = lambda key, loop: Api(kind, base, key, loop, **options)
        # The async client's connections belong to the loop that they were made on.
        self.loop = loop or asyncio.new_event_loop()
        self.client = kind(base_url=base + "/v1", api_key=key, **options)
        self.videos = self.client.videos

    def with_key(self, key):
        return self.make(key, self.loop)

    def do(self, result):
        return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def all(self, pages):
        """Every entry of all pages."""
        async def collect():
            return [entry async for entry in pages]
        return self.do(collect()) if hasattr(pages, "__aiter__") else list(pages)

    def streamed(self, response):
        """The body of a streaming response, piece by piece."""
        async def collect():
            async with response as opened:
                return [piece async for piece in opened.iter_bytes(4096)]
        if hasattr(response, "__aenter__"):
            return self.do(collect())
        with response as opened:
            return list(opened.iter_bytes(4096))


def refused(call, kind, code, param=None):
    """The error of a call that must be refused so; `param` is looked at only where it is given."""
    try:
        found = call()
    except openai.APIStatusError as error:
        assert isinstance(error, kind), f"expected {kind.__name__}, found {error!r}"
        found, expected = (error.code, error.param), (code, param if param is not None else error.param)
        assert found == expected, f"expected code and param {expected}, found {found}: {error.message}"
        return error
    raise AssertionError(f"expected {kind.__name__} {code}, found {found!r}")
