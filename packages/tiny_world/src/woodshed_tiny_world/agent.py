"""The clerk as a LangGraph agent, as its author wrote it for a hosted model. It knows nothing of woodshed."""

from __future__ import annotations

import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph
from pydantic import SecretStr

from woodshed_tiny_world.world import SYSTEM_PROMPT, get_delivery, get_price, get_stock


def build_agent(model: BaseChatModel | None = None) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the clerk: a model and the three tools of the shop.

    Args:
        model: what answers; `gpt-4o-mini` where none is given.
    """
    hosted = model or ChatOpenAI(
        model="gpt-4o-mini",
        max_completion_tokens=48,
        # A placeholder, so that the graph can be built where no key is set; a real call without a key is refused.
        api_key=SecretStr(os.environ.get("OPENAI_API_KEY", "none")),
    )
    return create_agent(hosted, tools=[get_price, get_stock, get_delivery], system_prompt=SYSTEM_PROMPT)
