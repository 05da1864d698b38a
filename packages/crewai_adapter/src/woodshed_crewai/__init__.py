"""Let a CrewAI crew practise: inside a rollout its model calls reach the policy and are recorded."""

from woodshed_crewai.instrumentor import CrewAIInstrumentor, instrument, trainable

__all__ = ["CrewAIInstrumentor", "instrument", "trainable"]
