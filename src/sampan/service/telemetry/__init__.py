"""What a process says about itself: trace context, metrics, logs. One pass, encoded off the request path."""
