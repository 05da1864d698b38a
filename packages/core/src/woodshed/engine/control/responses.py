"""Requests and responses of the control plane: a JSON body → a record, a record → JSON, an error → its reason."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from woodshed.engine.gateway.chat_request import BadRequest
from woodshed.errors import EngineError

Body = TypeVar("Body", bound=BaseModel)


class NotFound(EngineError):
    """Something named in a request does not exist; answered with status 404."""


async def parse_body(request: Request, kind: type[Body]) -> Body:
    """Return the record in a request's body.

    Raises:
        BadRequest: The body is not a `kind` as JSON.
    """
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise BadRequest(f"the body is not a {kind.__name__}: {error}") from None


def record_response(record: BaseModel) -> Response:
    """Return a response that holds a record as JSON."""
    return Response(record.model_dump_json(), media_type="application/json")


def error_response(status: int, kind: str, message: str) -> Response:
    """Return an error as a response; `kind` names the class that the client raises."""
    return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status)
