"""A decoder of the Llama family with attention along a token tree."""
