"""Make the pictures of the class that DreamBooth preserves, with the untrained base."""
