"""Telling people who do not look: a webhook, a notification block of Prefect. A dead one never harms a run."""
