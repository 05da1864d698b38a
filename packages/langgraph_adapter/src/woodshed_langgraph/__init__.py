"""Let a compiled LangGraph graph practise: inside a rollout its model calls reach the policy and are recorded."""

from woodshed_langgraph.instrumentor import LangGraphInstrumentor, instrument, wrap

__all__ = ["LangGraphInstrumentor", "instrument", "wrap"]
