"""What the publishers say about their videos: one parser for each benchmark, and one for your own."""
