"""The companies that the sandbox can be, by the name that SANDBOX_COMPANY takes."""

from sandbox.hvac import HVAC
from sandbox.painting import PAINTING

COMPANIES = {"painting": PAINTING, "hvac": HVAC}
