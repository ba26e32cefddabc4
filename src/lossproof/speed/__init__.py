"""Speed: any loss under a memory bound, any pointwise loss in one sweep."""
