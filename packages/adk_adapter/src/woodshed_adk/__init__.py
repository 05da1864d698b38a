"""Let a Google ADK agent practise: inside a rollout its model calls reach the policy and are recorded."""

from woodshed_adk.instrumentor import AdkInstrumentor, instrument

__all__ = ["AdkInstrumentor", "instrument"]
