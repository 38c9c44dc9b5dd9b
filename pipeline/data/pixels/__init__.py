"""What happens to pixels between a frame as it is read and what a model takes.

`resize` and `normalise` hold the one way to do either, for training, validation, test, prediction and pictures;
`crop`, `randaugment` and `mix` draw and carry out augmentations; `transforms` joins them for each purpose.
"""
