"""Every video measured once, and judged."""
