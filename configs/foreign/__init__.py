"""Files and command lines of other training systems: recognised, and answered with what rollcast has in the place of their settings."""
