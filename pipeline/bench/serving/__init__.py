"""`everest bench serving`: how long a served model takes to answer."""
