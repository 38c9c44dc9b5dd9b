"""What a plan is made of: counts of videos, and rates that were measured."""
