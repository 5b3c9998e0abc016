"""What is measured, shown, exported and predicted, for each kind of data."""
