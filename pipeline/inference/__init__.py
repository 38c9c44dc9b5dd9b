"""A finished model in use: found, converted, exported, asked about videos."""
