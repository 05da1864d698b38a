"""Whether a run can work, asked before it is paid for: small checks, each a line that passes, warns or fails."""

from woodshed.training.doctor.examine import examine_policy, examine_run, failing, first_step
from woodshed.training.doctor.finding import Finding

__all__ = ["Finding", "examine_policy", "examine_run", "failing", "first_step"]
