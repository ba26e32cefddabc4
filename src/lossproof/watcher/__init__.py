"""Watch: during training, which term, which sample, which line went wrong."""
