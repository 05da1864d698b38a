"""The training loop: scenarios → rollouts → scores → advantages → optimizer step → new weights."""
