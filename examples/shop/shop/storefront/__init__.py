"""The storefront: one page, no build step."""
