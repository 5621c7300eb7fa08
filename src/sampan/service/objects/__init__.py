"""Object storage: directories and S3."""
