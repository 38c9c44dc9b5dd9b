"""`everest audit`: how redundant a folder of videos is, before any model."""
