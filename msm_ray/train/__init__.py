"""One training loop for pretraining, midtraining and fine-tuning, on Ray Train."""
