"""The checks of the warehouse."""

import os

# Great Expectations would report its use. It reads this when it is imported.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
