"""`everest predict --timeline`: what a long video shows at which time, in one pass over it."""
