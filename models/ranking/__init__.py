"""From a posterior and items to an order."""
