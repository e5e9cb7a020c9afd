"""The paths of the server: OpenAI's completions, vLLM's health, metrics, tokens."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from reference.serving import chat
from reference.serving.completions import Completions, Service, error_response, read_body
from reference.serving.protocol import ProtocolError, checked_ids, encoded, read_object


def application(service: Service) -> Starlette:
    """All paths."""

    async def models(request: HttpRequest) -> Response:
        entry = {
            "id": service.model, "object": "model", "created": service.created,
            "owned_by": "specsim", "root": service.root, "parent": None,
            "max_model_len": service.context,
        }  # fmt: skip
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(request: HttpRequest) -> Response:
        failure = service.engine.failure or ("shutting down" if service.closing else "")
        return PlainTextResponse(failure, 503 if failure else 200)

    async def metrics(request: HttpRequest) -> Response:
        engine = service.engine
        used = sum(engine.slots.lengths) / (len(engine.slots.lengths) * service.context)
        page = engine.metrics.page(*engine.load, used)
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def tokenize(body: dict) -> dict:
        if "messages" in body:
            text = service.render(chat.messages_of(body))
        else:
            text = body.get("prompt", "")
        if not isinstance(text, str):
            raise ProtocolError(400, "prompt must be a string", "prompt")
        ids = encoded(text, service.tokenizer.encode)
        return {"count": len(ids), "max_model_len": service.context, "tokens": ids}

    async def detokenize(body: dict) -> dict:
        ids = body.get("tokens")
        if not isinstance(ids, list):
            raise ProtocolError(400, "tokens must be a list of ids", "tokens")
        return {"prompt": service.tokenizer.decode(checked_ids(ids, service.vocab_size))}

    def post(answer: Callable[[dict], Awaitable[dict]]):
        async def endpoint(request: HttpRequest) -> Response:
            try:
                most = service.limits.body_bytes
                body = await read_body(request.scope, request.receive, most)
                return JSONResponse(await answer(read_object(body)))
            except ProtocolError as error:
                return error_response(error.status, str(error), error.field)

        return endpoint

    async def unknown(request: HttpRequest, error: Exception) -> Response:
        paths = ", ".join(route.path for route in routes)
        return error_response(404, f"no such path: {request.url.path!r:.100}; there are {paths}")

    async def broken(request: HttpRequest, error: Exception) -> Response:
        return error_response(500, f"a defect of the server: {type(error).__name__}")

    routes = [
        Route("/v1/completions", Completions(service, False)),
        Route("/v1/chat/completions", Completions(service, True)),
        Route("/v1/models", models),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/tokenize", post(tokenize), methods=["POST"]),
        Route("/detokenize", post(detokenize), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={404: unknown, 500: broken})
