"""Whether a plan runs on a model as it says, in every way that the model can be run here."""

from workbench.verification.comparing import verify as verify
from workbench.verification.verdict import Verification as Verification
