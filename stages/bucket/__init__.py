"""Choose for each picture the sizes it is trained at: resize to cover a bucket, cut the rest."""
