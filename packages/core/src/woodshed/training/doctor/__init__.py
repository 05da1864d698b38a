"""Checks before a run: small tests of the engine, the policy and the judge; each passes, warns or fails."""

from woodshed.training.doctor.examine import examine_policy, examine_run, failing, first_step_checks
from woodshed.training.doctor.finding import Finding

__all__ = ["Finding", "examine_policy", "examine_run", "failing", "first_step_checks"]
