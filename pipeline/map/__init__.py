"""`everest compare --plan FILE`: one comparison on each of many sets of drawn videos, as a map of where it pays."""
