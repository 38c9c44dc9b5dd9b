"""What a run may take and what it took: `compute.budget`, counted while stages run."""
