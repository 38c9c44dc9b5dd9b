"""`everest bench gpu`: what a GPU has to show, in minutes, without network and without the tools around training."""
