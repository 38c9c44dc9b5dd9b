"""What is drawn: a look at a clip, and the tokens that a classifier keeps."""
