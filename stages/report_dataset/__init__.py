"""Show a dataset on one page: what became of every file, and what each picture is trained as."""
