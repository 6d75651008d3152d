"""Scripts that measure, and their records."""
