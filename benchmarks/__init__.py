"""The studies behind the figures lossproof states of itself; `README.md` says how to run each."""
