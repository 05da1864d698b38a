"""Requests and answers of the control plane: JSON in, a record out, a refusal with its reason."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from woodshed.engine.gateway.chat_request import BadRequest
from woodshed.errors import EngineError

Asked = TypeVar("Asked", bound=BaseModel)


class NotFound(EngineError):
    """Something named in a request does not exist; answered 404."""


async def read(request: Request, kind: type[Asked]) -> Asked:
    """Return the record in a request's body, or raise BadRequest."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise BadRequest(f"the body is not a {kind.__name__}: {error}") from None


def answer(value: BaseModel) -> Response:
    """Return a record as the answer."""
    return Response(value.model_dump_json(), media_type="application/json")


def refusal(status: int, kind: str, message: str) -> Response:
    """Return an error as the answer; `kind` is the class the client raises."""
    return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status)
