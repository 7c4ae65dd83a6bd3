"""What FLUX.1 and FLUX.2 share: positions, joint attention, embeddings and conditions."""
