"""Integrations: lossproof within the tools that people train with. Each is loaded on use."""
