"""The loop: scenarios → rollouts → judgement → advantages → one optimizer step → new weights, again."""
