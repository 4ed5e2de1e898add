"""What figures are made from: synthesized responses, recorded trials and evaluations on disk."""
