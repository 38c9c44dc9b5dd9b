"""`everest init`: from a folder of videos to a params.yaml whose values fit them, the machine and the time."""
