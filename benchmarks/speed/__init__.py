"""What `lossproof.speed` costs and keeps, beside eager PyTorch and other libraries."""
