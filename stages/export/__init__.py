"""Write the trained model as a folder for users, proven by loading it again."""
